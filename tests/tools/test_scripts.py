"""The two scripts as a newcomer runs them, on the embedded pair at its smallest."""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from adaspec_rl.envs.replay import nominal_costs
from adaspec_rl.scripts import evaluate, train

ROOT = Path(__file__).parents[2]
SMOKE = "experiment=smoke"


def run(script: str, *arguments: str, cwd: Path, code: int = 0, **env: str) -> str:
    """Run a script and check its exit code; returns stdout and stderr."""
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        cwd=cwd,
        env={**os.environ, "WANDB_MODE": "offline", "COLUMNS": "80", **env},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def run_here(monkeypatch, capfd) -> Callable[..., str]:
    """`run` in this process, which spares the imports of one of its own."""

    def played(script: str, *arguments: str, cwd: Path, code: int = 0) -> str:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        monkeypatch.setenv("WANDB_MODE", "offline")
        monkeypatch.setenv("COLUMNS", "80")
        threads, status = torch.get_num_threads(), 0
        handlers, level = logging.root.handlers[:], logging.root.level
        try:
            {"train_policy.py": train, "evaluate.py": evaluate}[script]()
        except SystemExit as ended:
            status = ended.code
        torch.set_num_threads(threads)
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
        printed = "".join(capfd.readouterr())
        assert status == code, printed
        return printed

    return played


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which a policy was trained, and what training printed."""
    folder = tmp_path_factory.mktemp("newcomer")
    return folder, run("train_policy.py", SMOKE, cwd=folder)


def newest(folder: Path, script: str = "train_policy") -> Path:
    return sorted((folder / "runs" / script).iterdir())[-1]


def comparison(folder: Path) -> dict:
    """The only one in a run's results."""
    (found,) = json.loads((folder / "results.json").read_text())["comparisons"]
    return found


def test_training_writes_everything_and_says_where(trained):
    folder, printed = trained
    made = newest(folder)
    names = {path.name for path in made.iterdir()}
    assert {
        "policy", "summary.json", "results.json", "results.csv", "checkpoints", "csv",
        "cost_profile.json", "cost_profile.png", "report.html", "speedup.png",
    } <= names  # fmt: skip
    assert printed.rstrip().endswith(f"policy: {made / 'policy'}")
    assert "learned" in printed and "fixed_4" in printed
    summary = json.loads((made / "summary.json").read_text())
    results = comparison(made)
    assert summary["speedup"] == results["methods"]["learned"]["speedup"]
    assert results["lossless"]["identical"] == results["lossless"]["compared"] == 15
    curve = (made / "csv" / "progress.csv").read_text().splitlines()
    assert "adaspec/speedup" in curve[0] and len(curve) == 5  # four rollouts
    assert list((folder / "runs" / "traces").glob("*/texts-0000.safetensors"))


def test_evaluation_takes_the_newest_policy_and_says_so(trained):
    folder, _ = trained
    printed = run("evaluate.py", SMOKE, "evaluation.best_first=[3]", cwd=folder)
    made = newest(folder)
    assert f"policy: {Path('runs') / made.relative_to(folder / 'runs')}/policy (the newest)" in (
        printed.replace("\n", "")
    )
    results = comparison(newest(folder, "evaluate"))
    assert set(results["methods"]) == {
        "autoregressive", "fixed_1", "fixed_4", "fixed_1_ngram", "fixed_4_ngram", "learned",
        "best_first_3_draft", "best_by_domain",
    }  # fmt: skip
    for key in ("mode", "pair", "temperature", "best_fixed", "lossless"):
        assert key in results
    whole = json.loads((newest(folder, "evaluate") / "results.json").read_text())
    for key in ("schema", "command", "device", "versions", "seed"):
        assert key in whole
    assert set(results["domains"]) == {"code", "prose", "dialogue"}


def test_sampling_and_a_fixed_controller(trained, run_here):
    folder, _ = trained
    run_here(
        "evaluate.py", SMOKE, "controller=fixed", "controller.length=2", "env.temperature=0.8",
        "evaluation.lengths=[1]", cwd=folder,
    )  # fmt: skip
    results = comparison(newest(folder, "evaluate"))
    assert set(results["methods"]) == {"autoregressive", "fixed_1", "fixed_2", "best_by_domain"}
    assert results["temperature"] == 0.8
    assert results["lossless"]["identical"] == results["lossless"]["compared"]  # coupled


# At costs under which drafts pay, whatever a busy machine would measure.
REPLAYED = (SMOKE, "controllers=[svip,learned,hindsight,foreseeable,oracle]",
            "evaluation.mode=replay", "evaluation.trials=2", "evaluation.tuning_prompts=1",
            "cost=cpu_2_threads")  # fmt: skip


@pytest.mark.slow
def test_replayed_comparisons_are_the_same_files_every_time_also_when_interrupted(
    trained, run_here
):
    folder, _ = trained
    run_here("evaluate.py", *REPLAYED, cwd=folder)
    first = newest(folder, "evaluate")
    run_here("evaluate.py", *REPLAYED, cwd=folder)
    second = newest(folder, "evaluate")
    assert first != second
    names = {path.name for path in first.iterdir() if path.suffix != ".log" and path.is_file()}
    assert {"results.json", "results.csv", "report.html", "generations-replay-t0.jsonl"} <= names
    found = {name: (first / name).read_bytes() for name in names}
    assert {name: (second / name).read_bytes() for name in names} == found
    figures = comparison(first)
    assert set(figures["methods"]) == {
        "autoregressive", "fixed_1", "fixed_4", "fixed_1_ngram", "fixed_4_ngram",
        "svip", "hindsight", "learned", "foreseeable", "oracle", "best_by_domain",
    }  # fmt: skip
    assert figures["methods"]["learned"]["guarded"]
    assert set(figures["methods"]["svip"]["parameters"]) == {"threshold", "drafter"}
    speedups = {name: method["speedup"] for name, method in figures["methods"].items()}
    assert speedups["oracle"] == max(speedups.values())
    assert figures["methods"]["oracle"]["gap_closed"] == 1.0
    # At temperature 0 all is foreseen; the schedule alone does not see what catching up costs.
    assert 0.8 < figures["methods"]["foreseeable"]["gap_closed"] <= 1.0
    journal = second / "generations-replay-t0.jsonl"  # as a killed run leaves it
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:2]) + b"[{")
    for name in names - {journal.name, "run.json"}:
        (second / name).unlink()
    run_here("evaluate.py", *REPLAYED, f"resume={second.relative_to(folder)}", cwd=folder)
    changed = {"results.json", "report.html"}  # they hold the command
    for name in names - changed:
        assert (second / name).read_bytes() == found[name], name
    assert comparison(second) == figures
    before = {path: path.read_bytes() for path in second.rglob("*") if path.is_file()}
    resume = f"resume={second.relative_to(folder)}"
    for setting, message in (
        ("seed=1", "seed=0 there, 1 here"),
        ("controller.guard=false", "controller.guard=null there, False here"),
    ):
        printed = run_here("evaluate.py", *REPLAYED, setting, resume, cwd=folder, code=2)
        assert f"began otherwise ({message})" in printed
    assert {path: path.read_bytes() for path in second.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_comparison_of_another_policy_is_not_gone_on_with(trained, run_here):
    folder, _ = trained
    fast = ("agent=hindsight", "agent.total_steps=512", "evaluation.lengths=[1]")
    run_here("train_policy.py", SMOKE, *fast, "seed=3", cwd=folder)
    other = newest(folder) / "policy"
    mine = first_run(folder) / "policy"
    replayed = (SMOKE, "evaluation.mode=replay", "evaluation.lengths=[1]")
    run_here("evaluate.py", *replayed, f"policy={mine}", "hydra.run.dir=compared", cwd=folder)
    results = (folder / "compared" / "results.json").read_bytes()
    printed = run_here(
        "evaluate.py", *replayed, f"policy={other}", "resume=compared", cwd=folder, code=2
    )
    assert re.search(r"holds another comparison \(policy=\w+ there, \w+ here", printed)
    assert (folder / "compared" / "results.json").read_bytes() == results


def test_another_policy_takes_part_under_its_name(trained, run_here):
    folder, _ = trained
    mine = first_run(folder) / "policy"
    replayed = (SMOKE, "evaluation.mode=replay", "evaluation.lengths=[1]", f"policy={mine}")
    run_here("evaluate.py", *replayed, f"rivals.same={mine}", cwd=folder)
    methods = comparison(newest(folder, "evaluate"))["methods"]
    assert methods["same"]["tokens_per_second"] == pytest.approx(
        methods["learned"]["tokens_per_second"], rel=0.1
    )  # both are charged their own decisions' time
    assert methods["same"]["learned_ahead_ci95"] is not None
    printed = run_here("evaluate.py", *replayed, f"rivals.fixed_1={mine}", cwd=folder, code=2)
    assert "rivals.fixed_1 is the name of another method: choose another name" in printed


def test_a_baseline_decodes_without_any_policy(tmp_path, run_here):
    run_here(
        "evaluate.py", SMOKE, "controller=svip", "controller.parameters.threshold=0.5",
        "controller.guard=true", "evaluation.lengths=[1]", "cost.samples=1", cwd=tmp_path,
    )  # fmt: skip
    figures = comparison(newest(tmp_path, "evaluate"))
    names = {"autoregressive", "fixed_1", "fixed_1_ngram", "svip", "best_by_domain"}
    assert set(figures["methods"]) == names
    assert figures["methods"]["svip"]["parameters"] == {"threshold": 0.5}
    assert figures["lossless"]["identical"] == figures["lossless"]["compared"] == 9


def test_training_resumes_from_its_last_checkpoint(trained, run_here):
    folder, _ = trained
    whole = first_run(folder)
    killed = folder / "killed"  # as a run leaves it that was killed after 1024 of 2048 steps
    shutil.copytree(whole, killed)
    for name in ("step_1536.pt", "step_2048.pt"):
        (killed / "checkpoints" / name).unlink(missing_ok=True)
    printed = run_here("train_policy.py", SMOKE, "resume=killed", cwd=folder)
    assert "resuming from" in printed and "step_1024.pt" in printed
    for name in ("policy.safetensors", "policy.json"):  # the same bundle as in one go
        assert (newest(folder) / "policy" / name).read_bytes() == (
            whole / "policy" / name
        ).read_bytes()


def first_run(folder: Path) -> Path:
    return sorted((folder / "runs" / "train_policy").iterdir())[0]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("env.temperature=0.8", "env.temperature=0.0 there, 0.8 here"),
        ("env.reward=ratio", "env.reward=throughput there, ratio here"),
        ("model.drafters=[ngram]", "there, ['ngram'] here"),
    ],
)
def test_a_training_of_another_task_is_not_gone_on_with(trained, setting, message, run_here):
    folder, _ = trained
    began = f"resume={first_run(folder)}"
    printed = run_here("train_policy.py", SMOKE, setting, began, cwd=folder, code=2)
    assert "began otherwise" in printed and message in printed


@pytest.mark.slow
def test_a_folder_that_holds_a_run_takes_no_other(trained, tmp_path, run_here):
    folder, _ = trained
    begun = tmp_path / "begun"
    shutil.copytree(first_run(folder), begun)
    before = {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()}
    where, again = f"hydra.run.dir={begun}", f"resume={begun}"
    printed = run_here("train_policy.py", SMOKE, where, cwd=folder, code=2)
    assert f"{begun} holds a run already: choose another folder" in printed
    for place in (where, again):
        printed = run_here("evaluate.py", SMOKE, place, cwd=folder, code=2)
        assert "holds a run of train_policy.py, not of evaluate.py" in printed
    (begun / "run.json").unlink()
    printed = run_here("evaluate.py", SMOKE, again, cwd=folder, code=2)
    assert "holds no comparison to resume (it has no run.json)" in printed
    printed = run_here("train_policy.py", SMOKE, again, cwd=folder, code=2)
    assert "cannot be resumed (it has no run.json)" in printed
    del before[begun / "run.json"]
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
def test_other_ways_to_learn(trained, run_here):
    folder, _ = trained
    policy = newest(folder) / "policy"
    for arguments in (
        ["agent=hindsight"],
        ["agent.warm_start=hindsight", "env.cost=randomised", "env.profiles=4"],
        [
            "env=live", f"agent.warm_start={policy}", "agent.n_steps=32", "agent.batch_size=32",
            "agent.total_steps=32", "env.verification=rejection", "env.temperature=0.8",
        ],
    ):  # fmt: skip
        run_here("train_policy.py", SMOKE, "evaluation.lengths=[1]", *arguments, cwd=folder)
        results = comparison(newest(folder))
        assert "learned" in results["methods"], arguments


@pytest.mark.parametrize(
    ("drafters", "covered", "message"),
    [
        (2, 2, "covers drafts of up to 2 tokens but env.max_length is 4"),
        (3, 4, "covers 3 drafters but the pair has 2"),
    ],
)
def test_costs_of_something_else_are_refused_before_recording(
    tmp_path, drafters, covered, message, run_here
):
    path = tmp_path / "costs.json"
    nominal_costs(drafters, covered).save(path)
    printed = run_here("train_policy.py", SMOKE, f"cost={path}", cwd=tmp_path, code=2)
    assert message in printed and "Traceback" not in printed
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [path]


def test_sweeps_run_each_job_with_its_own_wandb_run(tmp_path):
    run(
        "train_policy.py", "-m", SMOKE, "agent.learning_rate=1e-4,3e-4", "logger=wandb",
        "agent.total_steps=512", "evaluation.lengths=[1]", cwd=tmp_path,
    )  # fmt: skip
    sweep = newest(tmp_path)
    jobs = sorted(path for path in sweep.iterdir() if path.is_dir())
    assert [job.name for job in jobs] == ["0", "1"]
    rates = []
    for job in jobs:
        policy = json.loads((job / "policy" / "policy.json").read_text())
        rates.append(policy["training"]["agent"]["learning_rate"])
        assert len(list((job / "wandb").glob("offline-run-*"))) == 1
    assert rates == [1e-4, 3e-4]


def test_interrupting_keeps_the_best_policy(tmp_path):
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train_policy.py"), SMOKE, "agent.total_steps=10000000"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline = time.monotonic() + 600
        while not list(tmp_path.glob("runs/*/*/policy/policy.json")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=60)
    finally:
        process.kill()  # if it still runs
    assert process.returncode == 130
    assert "the best policy so far:" in printed and "Traceback" not in printed
    (bundle,) = tmp_path.glob("runs/*/*/policy")
    from adaspec_rl.training.bundle import load_bundle

    load_bundle(bundle)


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("train_policy.py", ["agent.learning_rte=1"], "did you mean agent.learning_rate"),
        ("train_policy.py", ["agnt.learning_rate=1"], "did you mean agent.learning_rate"),
        (
            "train_policy.py",
            ["model=lama"],
            "model=lama does not exist: expected one of inflated,",
        ),
        ("train_policy.py", ["experiment=nothing"], "experiment=nothing does not exist"),
        ("train_policy.py", ["model=pair"], "model.target must be set: add model.target=VALUE"),
        ("train_policy.py", ["agent.n_steps=many"], "agent.n_steps must be an integer from"),
        ("train_policy.py", ["model.target=/no/such/folder"], "no folder /no/such/folder"),
        ("train_policy.py", ["model.drafter=tiny:huge"], "expected one of tiny:code, tiny:draft"),
        (
            "train_policy.py",
            ["env.max_new_tokens=0"],
            "env.max_new_tokens must be an integer",
        ),
        (
            "train_policy.py",
            ["env.actions=words"],
            "env.actions must be one of length, length_",
        ),
        ("train_policy.py", ["agent.batch_size=100"], "agent.batch_size must divide"),
        ("train_policy.py", ["env=live", "agent=hindsight"], "use env=replay"),
        (
            "train_policy.py",
            ["control.survival=luck"],
            "control.survival must be one of head, product",
        ),
        (
            "train_policy.py",
            ["env.session=dream"],
            "env.session must be one of replay, live",
        ),
        ("train_policy.py", ["resume=nowhere"], "nowhere has no checkpoints"),
        ("train_policy.py", ["cost=nowhere.json"], "there is no cost profile nowhere.json"),
        (
            "train_policy.py",
            ["cost=nothing"],
            "cost=nothing does not exist: expected one of cpu_2_threads,",
        ),
        ("train_policy.py", ["cost=file"], "cost.path is not set: add cost.path=FILE"),
        ("train_policy.py", ["cost.batch_size=4"], "cost.batch_size=4 is not among"),
        ("train_policy.py", ["data=jsonl"], "data.path is not set"),
        ("train_policy.py", ["agent.clip_range=nan"], "a number above 0 and at most 1, got nan"),
        ("train_policy.py", ["agent=[1]"], "agent must be the name of a file in conf/agent"),
        ("train_policy.py", ["model.device=cuda:99"], "model.device=cuda:99 is not here"),
        ("train_policy.py", ["data.path=a=b"], "quote the value, 'data.path=\"a=b\"'"),
        ("train_policy.py", ["controllers=all"], "controllers is for evaluate.py"),
        ("train_policy.py", ["data=jsonl", "data.path=no.jsonl"], "no prompt file no.jsonl"),
        ("evaluate.py", [], "no trained policy under runs: run train_policy.py first"),
        ("evaluate.py", ["policy=nowhere"], "nowhere is not a policy bundle"),
        (
            "evaluate.py",
            ["evaluation.mode=dream"],
            "evaluation.mode must be one of live, replay",
        ),
        ("evaluate.py", ["resume=nowhere"], "there is no folder nowhere to resume"),
        (
            "evaluate.py",
            ["controller.parameters.x=1", "policy=nowhere"],
            "nowhere is not a policy bundle",
        ),
        ("evaluate.py", ["controller=magic"], "controller=magic does not exist: expected one of"),
        ("evaluate.py", ["controller=fixed", "evaluation.max_new_tokens=0"], "got 0"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing_behind(
    tmp_path, run_here, script, arguments, message
):
    printed = run_here(script, *arguments, cwd=tmp_path, code=2)
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0], printed
    assert "Traceback" not in printed
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("train_policy.py", ["agent.learning_rte=1"], "did you mean agent.learning_rate"),
        ("evaluate.py", [], "no trained policy under runs: run train_policy.py first"),
    ],
)
def test_mistakes_are_one_line_in_a_process_of_its_own(tmp_path, script, arguments, message):
    printed = run(script, *arguments, cwd=tmp_path, code=2)
    assert printed.startswith("error: ") and printed.count("\n") == 1 and message in printed
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
