"""Settings that are each allowed but not together."""

import pytest

from adaspec_rl import config_conflicts
from tests.command_line import refusal

LIVE = ["env.session=live", "agent.batch_size=32"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["data.source=jsonl"], "data.path is not set: add data.path=FILE"),
        (["data.source=hub"], "data.name is not set: add data.name=OWNER/NAME"),
        (["data.path=a"], "data.path='a' has no meaning with data=embedded: add data=jsonl or"),
        (["data.test_share=1"], "data.test_share=1.0 has no meaning with data=embedded: add"),
        (["data.source=jsonl", "data.path=a", "data.column=b"], "data.column='b' has no meaning"),
        (["cost.source=file"], "cost.path is not set: add cost.path=FILE"),
        (["cost.path=a.json"], "cost.path=a.json is read with cost=file alone: add cost=file"),
        (["cost.contexts=[]"], "cost.contexts is empty: name at least 1 to measure"),
        (["cost.batch_size=4"], "cost.batch_size=4 is not among cost.batch_sizes [1]: add it"),
        (
            ["env.max_length=3", "evaluation.lengths=[5,4]"],
            "every one of evaluation.lengths [5",
        ),
        (["env.verification=greedy", "env.temperature=0.5"], "env.verification=greedy needs tem"),
        (["env.verification=lossy.top_k"], "env.verification=lossy.top_k cannot be replayed, as"),
        (["env.lossy.k=8"], "env.lossy.k=8 has no meaning with env.verification=coupled: set env."),
        (
            [*LIVE, "env.verification=lossy.fuzzy", "env.lossy.window=2"],
            "env.lossy.window=2 has no meaning with env.verification=lossy.fuzzy: set env.verif",
        ),
        ([*LIVE, "env.verification=lossy.judge"], "env.lossy.judge is not set: add env.lossy.ju"),
        (["env.distance_price=1"], "env.distance_price=1 has no meaning with env.verification=co"),
        (
            ["replay.workers=2", "model.tensor_parallel=2"],
            "replay.workers=2 and model.tensor_parallel=2 do not go together: leave one out",
        ),
        (["controllers=all"], "controllers is for evaluate.py: train_policy.py compares the"),
        (["controllers=[svip]"], "controllers is for evaluate.py: train_policy.py compares the"),
        (["controller.name=svip"], "controller is for evaluate.py: train_policy.py compares the"),
        (["controller.parameters.x=1"], "controller.parameters is for evaluate.py: train_policy"),
        (["evaluation.mode=both"], "evaluation.mode is for evaluate.py: train_policy.py compares"),
        (["evaluation.temperatures=[0]"], "evaluation.temperatures is for evaluate.py: train_pol"),
        ([*LIVE, "agent.name=hindsight"], "agent=hindsight, and costs other than env.cost=profile"),
        ([*LIVE, "env.cost=randomised"], "agent=hindsight, and costs other than env.cost=profile"),
        (["agent.name=hindsight"], "agent.warm_start is for agent=ppo: agent=hindsight starts"),
        (["agent.name=hindsight", "resume=a"], "agent=hindsight takes seconds and keeps no check"),
        (["agent.batch_size=100"], "agent.batch_size must divide agent.n_steps x streams (16384)"),
        (["agent.n_steps=1000000", "agent.batch_size=512"], "agent.n_steps x env.streams must be"),
        (
            ["agent.name=hindsight", "agent.warm_start=null", "agent.total_steps=100000000"],
            "agent=hindsight keeps all its states in memory: agent.total_steps must be at most",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused_in_one_sentence(arguments, sentence):
    found = refusal(*arguments)
    assert found and found.startswith(sentence)
    assert "\n" not in found


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["controllers=[svip]", "controller.parameters.x=1"], "controller.parameters are of one"),
        (
            ["env.verification=lossy.typical", "evaluation.mode=both"],
            "env.verification=lossy.typical cannot be replayed, as its texts depend on the drafts",
        ),
        (
            ["env.verification=lossy.typical", "controllers=[ucb1,oracle]"],
            "controller=oracle knows recorded texts, which env.verification=lossy.typical leaves",
        ),
        (
            ["env.verification=rejection", "controllers=[foreseeable]", "env.temperature=0.8"],
            "controller=foreseeable knows recorded texts, which env.verification=rejection leaves "
            "at temperature 0.8: leave foreseeable out, or set env.verification=coupled",
        ),
        (
            ["env.verification=greedy", "evaluation.temperatures=[0,0.8]"],
            "env.verification=greedy needs temperature 0, got 0.8",
        ),
    ],
)
def test_what_does_not_fit_a_comparison_is_refused_in_one_sentence(arguments, sentence):
    found = refusal(*arguments, script="evaluate")
    assert found and found.startswith(sentence)


@pytest.mark.parametrize("argument", ["logger.name=tensorboard", "logger.name=wandb"])
def test_a_package_that_is_missing_is_named_before_anything_runs(argument, monkeypatch):
    monkeypatch.setattr(config_conflicts, "find_spec", lambda name: None)
    package = argument.partition("=")[2]
    found = refusal(argument)
    assert found == f"logger={package} needs the {package} package: pip install {package}"
    for name, value in (("device_map", "auto"), ("tensor_parallel", "2")):
        assert refusal(f"model.{name}={value}") == (
            f"model.{name} needs the accelerate package: pip install accelerate"
        )
    assert refusal("replay.workers=2") == "replay.workers=2 needs the ray package: pip install ray"


@pytest.mark.parametrize(
    "arguments",
    [
        ["controllers=all", "evaluation.mode=both", "evaluation.temperatures=[0,0.8]"],
        ["controller.name=svip", "controller.parameters.threshold=0.3"],
        ["env.verification=greedy"],
        ["env.verification=rejection", "controllers=[oracle]", "env.temperature=0"],
        [
            "env.verification=rejection",
            "controllers=[oracle]",
            "evaluation.mode=replay",
            "env.temperature=0.8",
        ],
        ["data.source=jsonl", "data.path=a", "data.test_share=1"],
        ["cost.source=file", "cost.path=a.json", "cost.batch_size=4"],
    ],
)
def test_what_fits_together_passes(arguments):
    assert refusal(*arguments, script="evaluate") is None
