import json
from collections import Counter

import pytest

from adaspec_rl.data.build_prompts import build
from adaspec_rl.data.prompts import EMBEDDED, balanced, embedded_prompts, jsonl_prompts


def test_embedded_prompts_are_plenty_and_disjoint():
    train, test = embedded_prompts("train"), embedded_prompts("test")
    assert min(Counter(prompt.domain for prompt in test).values()) >= 60
    assert len(Counter(prompt.domain for prompt in test)) == 3
    assert not {prompt.text for prompt in train} & {prompt.text for prompt in test}
    assert len({prompt.id for prompt in train + test}) == len(train) + len(test)


def test_prompts_can_be_cut_anew(tmp_path):
    build(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    shipped = (EMBEDDED / "test.jsonl").read_text().splitlines()
    assert len(rows) == len(shipped)
    dialogue = [row for row in rows if row["domain"] == "dialogue"]  # no Python version in these
    assert dialogue == [row for row in map(json.loads, shipped) if row["domain"] == "dialogue"]


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_known_layouts_are_read(tmp_path):
    spec_bench = {"question_id": 81, "category": "writing", "turns": ["Write.", "Rewrite."]}
    gsm8k = {"question": "How many?", "answer": "3"}
    plain = {"id": "a", "domain": "odd", "text": "Once"}
    path = write(tmp_path / "mixed.jsonl", [spec_bench, gsm8k, plain])
    found = {p.text: (p.id, p.domain) for s in ("train", "test") for p in read(path, s)}
    assert found == {
        "Write.": ("81", "writing"), "How many?": ("2", "mixed"), "Once": ("a", "odd"),
    }  # fmt: skip


def read(path, split, share=0.5):
    try:
        return jsonl_prompts(path, split, share)
    except ValueError:  # a file this small may leave a split empty
        return []


def test_a_file_is_split_by_its_texts(tmp_path):
    path = write(tmp_path / "p.jsonl", [{"text": f"prompt {number}"} for number in range(400)])
    train, test = jsonl_prompts(path, "train", 0.25), jsonl_prompts(path, "test", 0.25)
    assert len(train) + len(test) == 400 and 70 < len(test) < 130
    assert not {p.text for p in train} & {p.text for p in test}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{not json", "line 1 is not JSON"),
        ("[1, 2]", "line 1: expected an object"),
        ('{"words": "x"}', "expected one of the keys text, prompt, question, turns, found words"),
        ('{"text": ""}', "line 1: expected one of the keys"),
        ("", "has no prompt in its test split"),
    ],
)
def test_bad_files_are_refused_by_line(tmp_path, content, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        jsonl_prompts(path, "test")


def test_balancing_takes_domains_in_turn():
    chosen = balanced(embedded_prompts("test"), 2)
    assert [prompt.domain for prompt in chosen] == ["code", "prose", "dialogue"] * 2
    assert len(balanced(embedded_prompts("test"), None)) == len(embedded_prompts("test"))
