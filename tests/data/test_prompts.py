import json
from collections import Counter

import pytest

from adaspec_rl.data.build_prompts import build
from adaspec_rl.data.conversations import Message
from adaspec_rl.data.prompts import (
    EMBEDDED,
    balanced,
    embedded_prompts,
    gsm8k_prompts,
    jsonl_prompts,
)


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


def test_turns_and_messages_are_conversations(tmp_path):
    said = [("system", "Be brief."), ("user", "Hi"), ("assistant", ""), ("user", "Bye")]
    messages = [{"role": role, "content": text} for role, text in said]
    rows = [
        {"turns": ["Write.", "Rewrite."]},
        {"id": None, "prompt": "not this", "messages": messages},
        {"text": "Once", "turns": None, "domain": ""},
    ]
    path = write(tmp_path / "talk.jsonl", rows)
    found = {p.id: (p.domain, p.text, p.turns) for p in jsonl_prompts(path, "test", 1.0)}
    assert found == {
        "1": ("talk", "Write.", (Message("user", "Write."), Message("user", "Rewrite."))),
        "2": ("talk", "Hi", tuple(Message(role, text) for role, text in said)),
        "3": ("talk", "Once", ()),
    }


def test_turns_of_a_conversation_stand_on_one_side(tmp_path):
    rows = [
        {"id": f"{n}{tail}", "turns": [f"first {n}", *tail]} for n in range(60) for tail in "ab"
    ]
    path = write(tmp_path / "talk.jsonl", rows)
    for split in ("train", "test"):
        ids = {prompt.id for prompt in jsonl_prompts(path, split)}
        assert {f"{one[:-1]}{tail}" for one in ids for tail in "ab"} == ids  # by the first turn


def test_a_template_goes_around_every_user_turn(tmp_path):
    answered = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path = write(
        tmp_path / "p.jsonl", [{"messages": [*answered, {"role": "user", "content": "c"}]}]
    )
    (found,) = jsonl_prompts(path, "test", 1.0, "<{text}>")
    assert [message.text for message in found.turns] == ["<a>", "b", "<c>"] and found.text == "<a>"


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
        ("{not json", "bad.jsonl, line 1 is not JSON"),
        ('{"text": NaN}', "line 1 has NaN in place of a number"),
        ('{"text": ' + "[" * 100_000 + "]" * 100_000 + "}", "line 1 nests lists and objects more"),
        ('{"text": "a"}\n{"text": "\\ud83d"}', "line 2 has half of a surrogate pair"),
        ("[1, 2]", "line 1: expected an object"),
        (
            '{"words": "x"}',
            "a text in one of the keys messages, turns, text, prompt, question, found w",
        ),
        ('{"text": ""}', "line 1: text is empty: give it a text"),
        ('{"turns": []}', "line 1: turns is empty"),
        ('{"turns": ["a", ""]}', "line 1: turns is empty in turn 2: give it a text"),
        ('{"text": 5}', "line 1: text is no text: expected a text or a list of turns, found 5"),
        ('{"turns": [{"role": "user"}]}', "line 1: turns has no text in turn 1: expected a text"),
        ('{"messages": [{"role": "tool", "content": "a"}]}', "messages has the role 'tool' in t"),
        ('{"messages": [{"role": "system", "content": "a"}]}', "messages holds no user turn"),
        ('{"text": "a", "id": [1]}', r"line 1: expected a text or a number in id, found \[1\]"),
        ('\n\n{"words": "x"}', "line 3: expected a text"),
        ("", r"has no prompt in its test split \(.*, 0 prompts in all\): add prompts to it"),
    ],
)
def test_bad_files_are_refused_by_line(tmp_path, content, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        jsonl_prompts(path, "test")


@pytest.mark.parametrize("everything", ["train", "test"])
def test_a_split_may_hold_everything(tmp_path, everything):
    path = write(tmp_path / "p.jsonl", [{"text": f"prompt {number}"} for number in range(100)])
    share, other = (1.0, "train") if everything == "test" else (0.0, "test")
    assert len(jsonl_prompts(path, everything, share)) == 100
    remedy = "lower" if everything == "test" else "raise"
    with pytest.raises(ValueError, match=f"in its {other} split .*: {remedy} data.test_share"):
        jsonl_prompts(path, other, share)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_is_from_0_to_1(tmp_path, share):
    path = write(tmp_path / "p.jsonl", [{"text": "Once"}])
    with pytest.raises(ValueError, match=f"data.test_share must be from 0 to 1, got {share}"):
        jsonl_prompts(path, "test", share)


def test_a_template_goes_around_the_text_and_moves_no_prompt(tmp_path):
    path = write(tmp_path / "p.jsonl", [{"text": f"{{odd}} {number}"} for number in range(40)])
    bare = jsonl_prompts(path, "test")
    dressed = jsonl_prompts(path, "test", template="Q: {text}\nA:")
    assert [prompt.text for prompt in dressed] == [f"Q: {prompt.text}\nA:" for prompt in bare]
    assert [prompt.id for prompt in dressed] == [prompt.id for prompt in bare]
    with pytest.raises(ValueError, match=r"data.template must contain {text}, got 'Q: {question}'"):
        jsonl_prompts(path, "test", template="Q: {question}")


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("utf-16", "line 1 is UTF-16 or UTF-32 text: save the file as UTF-8"),
        ("utf-16-le", "line 1 is UTF-16 or UTF-32 text"),
        ("utf-32-be", "line 1 is UTF-16 or UTF-32 text"),
        ("latin-1", r"p.jsonl, line 2 is not UTF-8 text \(byte 0xe9\): save the file as UTF-8"),
    ],
)
def test_other_encodings_are_refused_by_file_and_line(tmp_path, encoding, message):
    path = tmp_path / "p.jsonl"
    path.write_bytes('{"text": "one"}\n{"text": "café"}'.encode(encoding))
    with pytest.raises(ValueError, match=message):
        jsonl_prompts(path, "test", 1.0)


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"text": "café"}', encoding="utf-8-sig")
    assert [prompt.text for prompt in jsonl_prompts(path, "test", 1.0)] == ["café"]


def test_two_prompts_of_one_id_are_refused(tmp_path):
    path = write(tmp_path / "p.jsonl", [{"id": 7, "text": "Once"}, {"id": "7", "text": "upon"}])
    with pytest.raises(ValueError, match="has 2 prompts with the id 7: ids must differ"):
        jsonl_prompts(path, "test", 1.0)


def test_a_line_separator_inside_a_text_does_not_end_the_line(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(
        json.dumps({"text": "one\u2028line"}, ensure_ascii=False) + "\r\n", encoding="utf-8"
    )
    assert [prompt.text for prompt in jsonl_prompts(path, "test", 1.0)] == ["one\u2028line"]


def test_gsm8k_is_one_domain_of_bare_questions(tmp_path):
    rows = [{"question": f"What is {n} + 1?", "answer": f"#### {n + 1}"} for n in range(30)]
    path = write(tmp_path / "test.jsonl", rows)
    train, test = gsm8k_prompts(path, "train"), gsm8k_prompts(path, "test")
    assert {prompt.domain for prompt in train + test} == {"gsm8k"}
    assert {prompt.text for prompt in train + test} == {row["question"] for row in rows}
    assert len(train) + len(test) == 30 and train and test
    with pytest.raises(ValueError, match="line 1: expected a text in one of the keys question, fo"):
        gsm8k_prompts(write(tmp_path / "other.jsonl", [{"text": "Once"}]), "test")


def test_balancing_takes_domains_in_turn():
    chosen = balanced(embedded_prompts("test"), 2)
    assert [prompt.domain for prompt in chosen] == ["code", "prose", "dialogue"] * 2
    assert len(balanced(embedded_prompts("test"), None)) == len(embedded_prompts("test"))
