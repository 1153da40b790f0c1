"""What a comparison needs is checked before anything is recorded, in training and evaluation."""

import json

import pytest
from rich.console import Console

from adaspec_rl.tools import evaluate, train
from adaspec_rl.training import train as training
from tests.command_line import configured


class Began(AssertionError):
    """Work began."""


@pytest.fixture
def nothing_begins(monkeypatch):
    def begin(*_, **__):
        raise Began

    monkeypatch.setattr(train, "prepare", begin)
    monkeypatch.setattr(evaluate, "compare", begin)


@pytest.fixture
def file(tmp_path):
    """Prompts of which some are too long, held-out ones among them."""
    path = tmp_path / "prompts.jsonl"
    texts = [f"{number} " + "word " * (4000 if number < 6 else 1) for number in range(20)]
    rows = [{"id": f"p{number}", "text": text} for number, text in enumerate(texts)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (0.5, r"prompt p. has \d+ tokens but the context of .* holds 2048: shorten it, or"),
        (0, r"has no prompt in its test split .*: raise data.test_share"),
    ],
)
@pytest.mark.parametrize("script", ["train_policy", "evaluate"])
def test_held_out_prompts_are_read_before_anything_is_recorded(
    nothing_begins, file, tmp_path, script, share, message
):
    settings = ["data.source=jsonl", f"data.path='{file}'", f"data.test_share={share}"]
    settings += ["controller.name=svip"] if script == "evaluate" else []
    with pytest.raises(ValueError, match=message):
        start(script, settings, tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["controller.name=hindsight"], "controller=hindsight needs a policy's actions: set pol"),
        (["controller.name=svip", "controller.parameters.x=1"], "controller=svip has no parameter"),
        (["controller.name=oracle", "controller.parameters.x=1"], "controller=oracle has no para"),
        (
            ["controller.name=fixed", "controller.parameters.length=2.5"],
            "controller.parameters.length must be an integer from 0 to 1,000,000,000, got 2.5",
        ),
        (
            ["controllers=[switching]", "model.drafters=[ngram]", "policy=a"],
            "a is not a policy bundle",
        ),
        (
            ["controller.name=switching", "model.drafters=[ngram]"],
            "controller=switching needs the drafter draft, but the pair has ngram: add it to",
        ),
    ],
)
def test_contestants_are_known_before_anything_is_recorded(
    nothing_begins, tmp_path, settings, message
):
    with pytest.raises(ValueError, match=message):
        start("evaluate", settings, tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["replay.prompts=1"], "3 training prompts are too few to withhold some of them"),
        (["agent.warm_start=nowhere"], "nowhere is not a policy bundle"),
    ],
)
def test_training_knows_what_it_learns_from_before_anything_is_recorded(
    monkeypatch, tmp_path, settings, message
):
    monkeypatch.setattr(training, "recording_from", None)
    with pytest.raises(ValueError, match=message):
        start("train_policy", settings, tmp_path)


def test_work_begins_where_nothing_is_wrong(nothing_begins, tmp_path):
    for script, settings in (("train_policy", []), ("evaluate", ["controller.name=svip"])):
        with pytest.raises(Began):
            start(script, settings, tmp_path)


def start(script, settings, folder):
    config = configured(*settings, script=script)
    task = train.train_policy if script == "train_policy" else evaluate.evaluate_policy
    return task(config, folder, Console(quiet=True))
