"""The export command on the embedded pair, from a run's folder to predictions."""

import json

import pytest

from adaspec_rl.command import checked
from adaspec_rl.console import standard_output
from adaspec_rl.from_config import pair_from
from adaspec_rl.interop import export
from adaspec_rl.training.train import identity_of, learn, prepare
from tests.command_line import composed


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder, without its comparison."""
    root = tmp_path_factory.mktemp("runs")
    folder = root / "train_policy" / "one"
    config = checked(
        composed(
            "experiment=smoke", "agent=hindsight", "agent.total_steps=2048", f"runs={root}",
            "cost=cpu_2_threads", "threads=1", "replay.prompts=2",
        ),
        "train_policy",
    )  # fmt: skip
    pair = pair_from(config.model, config.engine)
    task = prepare(config, pair, standard_output())
    identity_of(config, pair, task.prompts, task.profile).save(folder)
    learn(config, task, folder, standard_output())
    return folder


@pytest.mark.slow
def test_a_run_is_exported_and_predicted(run, capsys):
    before = sorted(path.name for path in (run.parents[1] / "traces").iterdir())
    for to in ("vllm", "llama.cpp", "table"):
        export.main([f"policy={run / 'policy'}", f"to={to}", f"runs={run.parents[1]}", "threads=1"])
        printed = capsys.readouterr().out
        assert f"to {to}" in printed and "predicted" in printed and "written: " in printed
        found = json.loads((run / "exports" / to / "export.json").read_text())
        assert found["source"]["fingerprint"] and found["parts"]
        for part in found["parts"]:
            assert part["predictions"] and part["advice"]
    assert before == sorted(path.name for path in (run.parents[1] / "traces").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["to=vllm"], "policy must be set"),
        (["to=exllama"], "to must be one of vllm, sglang"),
        (["to=vllm", "drafter=mine"], "drafter=mine is none of the pair's"),
        (["to=vllm", "run=."], "holds no run"),
    ],
)
def test_mistakes_are_one_line(arguments, message, run, capsys, monkeypatch):
    monkeypatch.chdir(run)
    policy = [] if message.startswith("policy") else [f"policy={run / 'policy'}"]
    if "run=." in arguments:
        monkeypatch.chdir(run / "policy")
    with pytest.raises(SystemExit) as ended:
        export.main([*policy, *arguments, f"runs={run.parents[1]}"])
    printed = capsys.readouterr().err
    assert ended.value.code == 2 and message in printed and printed.count("\n") == 1
