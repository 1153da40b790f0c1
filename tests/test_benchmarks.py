"""The benchmarks: what each says of itself, and the GPU's, rehearsed."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from adaspec_rl.costs.profile import RoundCosts
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.engine.checkpoint import Checkpoint
from adaspec_rl.engine.weights import tensors_in
from adaspec_rl.pairs.pair import load_pair
from adaspec_rl.pairs.sources import checkpoint_of
from tests import PROJECT

FOLDER = PROJECT / "benchmarks"
COMMANDS = sorted(
    path.stem
    for path in FOLDER.glob("*.py")
    if '__name__ == "__main__"' in path.read_text()
    if path.stem not in ("check_numbers", "main_picture")  # they make no figures
)
PARTS = sorted(path.stem for path in FOLDER.glob("*.py"))


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """The benchmarks' modules can be imported here, and are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for name in PARTS:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_benchmark_explains_itself(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert ended.value.code == 0
    assert printed.startswith(f"usage: {name}.py") and "--json" in printed


def test_fallbacks_are_timed_without_reading_the_text_anew():
    from rounds import FALLBACKS, time_fallbacks

    pair = load_pair("tiny", "tiny:target", ["tiny:draft"])
    prompt = pair.encode("def main():")
    before = pair.target.resets
    pair.session(max_new_tokens=8, sampling=Sampling()).start(prompt)
    reading = pair.target.resets - before
    idle, plain = time_fallbacks(pair, prompt, 2 * FALLBACKS)
    assert len(idle) == len(plain) == 2 * FALLBACKS
    assert pair.target.resets - before == (1 + 4) * reading  # two texts in each of two sessions


def test_a_drafter_is_given_the_rows_of_other_tokens(tmp_path):
    """What it makes of a text stays; only the tokens that it can output change."""
    from output_rows import trimmed

    source = checkpoint_of("smollm2:draft")
    few = np.arange(300, 400)
    trimmed(source, few, tmp_path)
    before, after = (
        dict(tensors_in(checkpoint.weight_files())) for checkpoint in (source, Checkpoint(tmp_path))
    )
    assert before.pop("output_tokens").shape == (8192,)
    assert after.pop("output_tokens").tolist() == few.tolist()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    config = Checkpoint(tmp_path).config()
    assert config["adaspec_drafter"]["output_tokens"] == 100


def test_the_speedup_is_that_of_the_best_length():
    from output_rows import speedup

    costs = RoundCosts(
        context=64,
        batch_size=1,
        autoregressive_step=1.0,
        draft_step=(0.25,),
        stopping_step=(0.0,),
        verification=(1.0, 1.0, 1.0, 1.0),
        overhead=(0.0,),
        catch_up=(0.0,),
    )
    # 1.5 tokens in 1.25 steps, 1.9 in 1.5, 2 in 1.75
    assert speedup([0.5, 0.4, 0.1], costs, 0) == (pytest.approx(1.9 / 1.5), 2)


def python(name: str, code: str, seconds: float = 60.0, result: Path | None = None):
    from gpu import Section

    return Section(name, (sys.executable, "-c", code), seconds, result and str(result))


def test_a_section_that_fails_or_hangs_is_noted_and_the_rest_goes_on(tmp_path):
    from gpu import run_all

    result = tmp_path / "result.json"
    write = f"open({str(result)!r}, 'w').write('{{\"figures\": 1}}')"
    planned = [
        python("fails", "print('the reason'); raise SystemExit(3)"),
        python("hangs", "import time; print('so far', flush=True); time.sleep(60)", seconds=2.0),
        python("works", write, result=result),
    ]
    path = tmp_path / "gpu.json"
    run_all(planned, 1.0, path)
    written = json.loads(path.read_text())
    assert {"device", "versions", "command", "missing"} <= set(written)
    found = written["sections"]
    assert {name: outcome["status"] for name, outcome in found.items()} == {
        "fails": "failed", "hangs": "timed out", "works": "ok",
    }  # fmt: skip
    assert found["fails"]["printed"] == "the reason\n" and "so far" in found["hangs"]["printed"]
    assert found["works"]["result"] == {"figures": 1} and not found["works"]["printed"]


def test_what_no_time_is_left_for_is_skipped():
    from gpu import run_all

    assert run_all([python("late", "")], 0.0, None)["late"].status == "skipped"


def test_a_rehearsal_needs_none_of_the_packages_that_only_training_needs(tmp_path):
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    for name in ("gymnasium", "hydra", "omegaconf", "stable_baselines3", "wandb", "optuna"):
        (hidden / f"{name}.py").write_text(f"raise ImportError('{name} is hidden')\n")
    path = tmp_path / "gpu.json"
    command = [sys.executable, str(FOLDER / "gpu.py"), "--rehearse", "--threads", "1",
               "--sections", "costs", "policy", "--json", str(path)]  # fmt: skip
    path_to = {"PYTHONPATH": f"{hidden}:{PROJECT}"}
    done = subprocess.run(command, env={**os.environ, **path_to}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(path.read_text())["sections"]
    profile, policy = found["costs"]["result"], found["policy"]["result"]
    assert len(profile["profile"]["points"]) == 2  # one context, two batch sizes
    assert policy["left_out"] == {"learned": "skipped: hydra is hidden"}
    assert policy["figures"]["identical_share"] == 1.0
    assert policy["figures"]["speedup_markov"] > 0


def test_the_main_table_puts_peers_beside_the_same_prompts(tmp_path):
    from decoders import Made, Method
    from main_table import Peers, tokens_and_seconds

    rows = [
        [{"method": name, "tokens": [1] * count, "seconds": seconds} for name, seconds in both]
        for count, both in (
            (4, (("learned", 1.0), ("autoregressive", 2.0))),
            (6, (("autoregressive", 3.0), ("learned", 1.0))),
        )
    ]
    journal = tmp_path / "journal.jsonl"
    journal.write_text("\n".join(["{}", *map(json.dumps, rows)]) + "\n")
    ours = tokens_and_seconds(journal)
    assert ours["learned"].tolist() == [[4, 1.0], [6, 1.0]]
    method = Method("transformers", "bfloat16", "plain", "", lambda prompt, seed: None)
    made = [[Made([1] * 4, 1, 0.0, 4.0)], [Made([1] * 4, 1, 0.0, 4.0)]]
    found = Peers([method], made, {}).against(ours)["transformers bfloat16, plain"]
    assert found["tokens_per_second"] == 1.0
    assert found["learned_ahead"]["ratio"] == pytest.approx(5.0)  # 10 tokens in 2 seconds
    assert found["autoregressive_ahead"]["ratio"] == pytest.approx(2.0)


def test_decisions_are_timed_in_turns_and_the_middle_one_counts():
    from batch_replay import middle, timed, widened

    from adaspec_rl.replay.batch_replay import DecisionCosts

    called = []

    def timing(name):
        called.append(name)
        return DecisionCosts(other=(float(len(called) % 3), 0.0))

    found = timed(3, {name: lambda name=name: timing(name) for name in "ab"})
    assert {name: len(each) for name, each in found.items()} == {"a": 3, "b": 3}
    assert [set(called[turn : turn + 2]) for turn in (0, 2, 4)] == [{"a", "b"}] * 3
    costs = [DecisionCosts(other=(seconds, 1.0)) for seconds in (5.0, 1.0, 3.0)]
    assert middle(costs, 4) == costs[2]
    assert widened([1.0, 0.9, 1.1], [[1.0, 0.8, 1.0], [1.0, 0.95, 1.3]]) == [1.0, 0.8, 1.3]


def test_every_result_can_be_read():
    for path in (FOLDER / "results").glob("*.json"):
        assert json.loads(path.read_text()), path.name


def test_two_commits_run_in_slices_and_never_at_once(tmp_path):
    """Each side notes when it works; its own time goes on while it is paused."""
    from before_and_after import in_slices

    script = """
import json, sys, time
busy, last = [], time.perf_counter()
while len(busy) < 400:
    now = time.perf_counter()
    if now - last > 0.001:
        busy.append(now)
        last = now
open(sys.argv[sys.argv.index("--json") + 1], "w").write(json.dumps({"figures": {"busy": busy}}))
"""
    sides = {}
    for name in ("before", "after"):
        (tmp_path / name / "benchmarks").mkdir(parents=True)
        (tmp_path / name / "benchmarks" / "noted.py").write_text(script)
        sides[name] = tmp_path / name
    found = in_slices(sides, "noted.py --repeats 3", 0.05)
    moments = sorted((at, name) for name, figures in found.items() for at in figures["busy"])
    turns = sum(one[1] != other[1] for one, other in zip(moments, moments[1:]))
    assert 4 < turns < 100  # if both ran at once, they would alternate hundreds of times


def test_a_side_that_fails_is_named(tmp_path):
    from before_and_after import in_slices

    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "bad.py").write_text("raise SystemExit(3)")
    with pytest.raises(SystemExit, match="'bad.py' failed in the checkout after"):
        in_slices({"after": tmp_path}, "bad.py", 0.05)


def test_the_usual_timing_of_each_group_of_texts_counts():
    from batch_live import Sums, Timed

    sums = Sums([[Timed(100, 1.0), Timed(100, 5.0), Timed(100, 2.0)], [Timed(60, 3.0)]])
    assert sums.seconds.tolist() == [2.0, 3.0] and sums.rate == 160 / 5.0
