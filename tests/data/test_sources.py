"""The configuration group `data`: from the command line to encoded prompts."""

import json
from collections import Counter

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console

from adaspec_rl import config as schema
from adaspec_rl import prompts as sources
from adaspec_rl.config import CONF, Config, DataConfig
from adaspec_rl.data.prompts import jsonl_prompts
from adaspec_rl.pairs.pair import load_pair
from tests import PROJECT

SPEC_BENCH = (
    "writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities",
    "translation", "summarization", "qa", "math_reasoning", "rag",
)  # fmt: skip
PUBLISHED = PROJECT.parent / "shared" / "data"  # files that do not ship


@pytest.fixture(scope="module")
def pair():
    return load_pair("tiny", "tiny:target", ["tiny:draft"])


def composed(*arguments: str, script: str = "train_policy") -> DataConfig:
    """What the command line `arguments` mean to a script."""
    schema.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_object(compose(script, overrides=list(arguments))).data


def prompts_from(data, split, pair, per_domain=None):
    return sources.prompts_from(Config(data=data), split, pair, Console(), per_domain)


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def spec_bench(path, long=()):
    """Spec-Bench's layout: two prompts a category, the second one long where asked."""
    rows = [
        {
            "question_id": 81 + 2 * number + turn,
            "category": category,
            "turns": [f"{category} {turn}" + " word" * 400 * (turn and category in long), "More."],
        }
        for number, category in enumerate(SPEC_BENCH)
        for turn in range(2)
    ]
    return write(path, rows)


@pytest.mark.parametrize("script", ["train_policy", "evaluate"])
def test_every_source_has_a_file_that_agrees_with_the_schema(script):
    names = {path.stem for path in (CONF / "data").glob("*.yaml")}
    assert names == {"embedded", "jsonl", "gsm8k", "hub"}
    for name in names:
        config = composed(f"data={name}", script=script)
        assert config.source == name
        template = "Question: {text}\nAnswer:" if name == "gsm8k" else None
        assert config == DataConfig(source=name, template=template)  # values as in the schema


def test_spec_bench_loads_with_its_categories_as_domains(tmp_path, pair):
    path = spec_bench(tmp_path / "question.jsonl")
    config = composed("data=jsonl", f"data.path={path}", "data.test_share=1")
    found = prompts_from(config, "test", pair)
    assert Counter(item.prompt.domain for item in found) == dict.fromkeys(SPEC_BENCH, 2)
    assert tuple(item.prompt.domain for item in found[:13]) == SPEC_BENCH
    assert found[0].prompt.text == "writing 0" and found[0].prompt.id == "81"
    assert found[0].ids == pair.encode("writing 0")
    with pytest.raises(ValueError, match="no prompt in its train split .*: lower data.test_share"):
        prompts_from(config, "train", pair)


@pytest.mark.skipif(
    not (PUBLISHED / "spec_bench.jsonl").is_file(),
    reason="../shared/data has no spec_bench.jsonl",
)
def test_the_published_spec_bench_loads(pair):
    path = PUBLISHED / "spec_bench.jsonl"
    options = ["data=jsonl", f"data.path={path}", "data.test_share=1"]
    counts = {domain: 10 if number < 8 else 80 for number, domain in enumerate(SPEC_BENCH)}
    found = prompts_from(composed(*options, "data.max_prompt_tokens=100000"), "test", pair, 2)
    assert Counter(item.prompt.domain for item in found) == dict.fromkeys(SPEC_BENCH, 2)
    assert Counter(item.domain for item in jsonl_prompts(path, "test", 1.0)) == counts


@pytest.mark.skipif(
    not (PUBLISHED / "gsm8k_test.jsonl").is_file(),
    reason="../shared/data has no gsm8k_test.jsonl",
)
def test_the_published_gsm8k_loads(pair):
    path = PUBLISHED / "gsm8k_test.jsonl"
    config = composed("data=gsm8k", f"data.path={path}", "data.test_share=1")
    assert len(prompts_from(config, "test", pair)) == 1319


def test_gsm8k_asks_in_the_usual_form(tmp_path, pair):
    path = write(tmp_path / "test.jsonl", [{"question": "How many?", "answer": "#### 3"}])
    options = ["data=gsm8k", f"data.path={path}", "data.test_share=1"]
    (found,) = prompts_from(composed(*options), "test", pair)
    assert found.prompt.text == "Question: How many?\nAnswer:"
    assert found.ids == pair.encode(found.prompt.text)
    (bare,) = prompts_from(composed(*options, "data.template=null"), "test", pair)
    assert bare.prompt.text == "How many?"
    (other,) = prompts_from(composed(*options, "data.template='Q: {text}\nA:'"), "test", pair)
    assert other.prompt.text == "Q: How many?\nA:"


def test_the_hub_gets_what_the_configuration_says(monkeypatch, pair):
    seen = []
    monkeypatch.setattr(sources, "hub_prompts", lambda *a, **k: seen.append((a, k)) or [])
    config = composed(
        "data=hub", "data.name=openai/gsm8k", "data.config=main", "data.split=test",
        "data.column=question", "data.domain_column=kind", "data.template='<{text}>'",
        "data.test_share=0.25",
    )  # fmt: skip
    assert prompts_from(config, "test", pair) == []
    assert seen == [
        (
            ("openai/gsm8k", "test", 0.25, "<{text}>"),
            {
                "config": "main", "hub_split": "test", "column": "question",
                "domain_column": "kind",
            },
        )
    ]  # fmt: skip


def test_a_file_that_there_is_not_is_refused(pair):
    with pytest.raises(ValueError, match="no prompt file no.jsonl: set data.path"):
        prompts_from(DataConfig(source="gsm8k", path="no.jsonl"), "test", pair)


def test_long_prompts_are_left_out_and_counted(tmp_path, pair, caplog):
    path = spec_bench(tmp_path / "question.jsonl", long=("summarization", "rag"))
    options = ["data=jsonl", f"data.path={path}", "data.test_share=1", "data.chat=off"]
    found = prompts_from(composed(*options, "data.max_prompt_tokens=100"), "test", pair)
    assert len(found) == 24 and max(len(item.ids) for item in found) <= 100
    counts = Counter(item.prompt.domain for item in found)
    assert counts["rag"] == counts["summarization"] == 1 and counts["qa"] == 2
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "WARNING",
            "left out 2 of 26 prompts, longer than data.max_prompt_tokens=100: "
            "1 of summarization, 1 of rag",
        )
    ]
    longest = max(len(item.ids) for item in found)
    caplog.clear()
    kept = prompts_from(composed(*options, f"data.max_prompt_tokens={longest}"), "test", pair)
    assert kept == found  # the limit itself is allowed


def test_a_domain_is_filled_up_with_prompts_that_are_short_enough(tmp_path, pair):
    texts = ["word " * 300, "short", "word " * 300, "brief"]
    path = write(tmp_path / "p.jsonl", [{"text": text + str(n)} for n, text in enumerate(texts)])
    config = DataConfig("jsonl", str(path), test_share=1, max_prompt_tokens=50)
    assert [item.prompt.text for item in prompts_from(config, "test", pair, 2)] == [
        "short1", "brief3",
    ]  # fmt: skip


def test_prompts_already_seen_are_skipped_in_each_held_out_domain(tmp_path, pair, caplog):
    rows = [{"text": f"{domain} {n}", "domain": domain} for n in range(3) for domain in "ab"]
    path = write(tmp_path / "p.jsonl", rows)
    config = DataConfig("jsonl", str(path), test_share=1, test_skip=1)
    found = [item.prompt.text for item in prompts_from(config, "test", pair, 1)]
    assert found == ["a 1", "b 1"]
    rows += [{"text": "c 0", "domain": "c"}]
    write(path, rows)
    with caplog.at_level("WARNING"):
        assert [item.prompt.domain for item in prompts_from(config, "test", pair, 1)] == ["a", "b"]
    assert "data.test_skip=1 leaves out all of c" in caplog.text
    config.test_skip = 3
    with pytest.raises(ValueError, match=r"data.test_skip=3 leaves out all 7 held-out prompts"):
        prompts_from(config, "test", pair)
    embedded = DataConfig(test_skip=1)
    assert prompts_from(embedded, "train", pair) == prompts_from(DataConfig(), "train", pair)


def test_nothing_is_said_where_nothing_is_left_out(pair, caplog):
    whole = prompts_from(DataConfig(), "test", pair)
    assert prompts_from(DataConfig(max_prompt_tokens=100_000), "test", pair) == whole
    assert not caplog.records


def test_prompts_that_are_all_too_long_or_do_not_fit_are_refused(tmp_path, pair):
    path = write(tmp_path / "p.jsonl", [{"text": "word " * pair.target.context_length}])
    config = DataConfig("jsonl", str(path), test_share=1)
    with pytest.raises(ValueError, match=r"leave such prompts out with data.max_prompt_tokens=N"):
        prompts_from(config, "test", pair)
    config.max_prompt_tokens = 10
    with pytest.raises(ValueError, match=r"all 1 prompts are longer than data.max_prompt_tokens=1"):
        prompts_from(config, "test", pair)
