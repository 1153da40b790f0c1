"""What a run is: everything that its results depend on, and the difference in words."""

from dataclasses import replace

import pytest

from adaspec_rl.config import EvaluateConfig, TrainConfig
from adaspec_rl.run_identity import (
    RECORD,
    RunIdentity,
    differences,
    digest,
    saved_identity,
    settings_of,
)

CONFIG = TrainConfig()


def identity(config=CONFIG, **contents) -> RunIdentity:
    return RunIdentity("train_policy", settings_of(config), contents)


def test_every_setting_counts_but_where_things_lie_and_what_is_logged():
    keys = settings_of(EvaluateConfig()).keys()
    for counted in ("seed", "model.dtype", "controller.guard", "env.temperature", "cost.path"):
        assert counted in keys
    for elsewhere in ("logger.name", "resume", "policy", "runs", "data.path", "replay.cache"):
        assert elsewhere not in keys


def test_what_is_saved_is_read(tmp_path):
    assert saved_identity(tmp_path) is None
    made = identity(pair="abc", versions={"torch": "2"})
    made.save(tmp_path)
    found = saved_identity(tmp_path)
    assert found == made
    made.check_settings(found, tmp_path)
    made.check_contents(found, tmp_path)


@pytest.mark.parametrize(
    ("section", "name", "value", "message"),
    [
        ("env", "temperature", 0.8, "env.temperature=0.0 there, 0.8 here"),
        ("env", "reward", "ratio", "env.reward=throughput there, ratio here"),
        ("model", "drafters", ["draft"], r"model.drafters=\['draft', 'ngram'\] there, \['draft'\]"),
        ("model", "dtype", "bfloat16", "model.dtype=float32 there, bfloat16 here"),
        ("model", "quantize", "int8", "model.quantize=null there, int8 here"),
        ("engine", "name", "lean", "engine.name=auto there, lean here"),
        ("control", "survival", "product", "control.survival=head there, product here"),
        ("replay", "prompts", 4, "replay.prompts=128 there, 4 here"),
        ("controller", "guard", False, "controller.guard=null there, False here"),
        ("controller", "parameters", {"x": 1}, "controller.parameters"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path, section, name, value, message):
    identity().save(tmp_path)
    other = replace(CONFIG, **{section: replace(getattr(CONFIG, section), **{name: value})})
    with pytest.raises(ValueError, match=rf"{tmp_path} began otherwise \({message}"):
        identity(other).check_settings(saved_identity(tmp_path), tmp_path)


def test_another_script_and_other_contents_are_refused(tmp_path):
    began = identity(prompts="a", pair="b")
    with pytest.raises(ValueError, match=r"holds a run of train_policy.py, not of evaluate.py"):
        RunIdentity("evaluate", began.settings, {}).check_settings(began, tmp_path)
    with pytest.raises(ValueError, match=r"\(prompts=a there, c here\): repeat the command"):
        identity(prompts="c", pair="b").check_contents(began, tmp_path)


def test_differences_are_few_words():
    assert differences({"a": 1, "b": {"c": (1, 2)}}, {"b": {"c": [1, 2]}, "a": 1}) == ""
    many = differences({}, {name: 1 for name in "abcde"})
    assert many == "a=null there, 1 here; b=null there, 1 here; c=null there, 1 here; and 2 more"


@pytest.mark.parametrize("content", ["", "[]", '{"script": "x"}', "\0", "{" * 10_000])
def test_a_damaged_record_is_one_sentence(tmp_path, content):
    (tmp_path / RECORD).write_text(content)
    with pytest.raises(ValueError, match=r"run.json is damaged \(.*\): begin a new run"):
        saved_identity(tmp_path)


def test_digests_tell_texts_apart():
    assert digest(["a", "b"]) == digest(["a", "b"]) != digest(["ab"])
    assert digest("\ud800") != digest("\ud801")  # lone surrogates
