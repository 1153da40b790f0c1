"""`evaluate.py` with requests that arrive by themselves."""

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from adaspec_rl.comparison.serving import arrived, live_figures, rates
from adaspec_rl.control.batch_generation import Answered, BatchGeneration
from adaspec_rl.tools.evaluate import evaluate_policy
from tests.command_line import configured, refusal

POISSON = "evaluation.load=poisson"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["evaluation.rows=4"], "evaluation.rows=4 has no meaning without a load: set evaluation"),
        (["evaluation.load=trace"], "evaluation.load=trace and evaluation.trace=None do not fit"),
        ([POISSON, "evaluation.trace=a"], "evaluation.load=poisson and evaluation.trace=a do not"),
        ([POISSON, "evaluation.batch_cost=a"], "evaluation.batch_cost needs evaluation.mode=rep"),
        ([POISSON, "evaluation.temperatures=[0]"], "evaluation.load serves at env.temperature"),
        ([POISSON, "evaluation.rate=0"], "evaluation.rate must be a number above 0"),
        ([POISSON, "evaluation.rate=[1,-2]"], "evaluation.rate must be a number above 0"),
        (["evaluation.load=daily"], "evaluation.load must be"),
    ],
)
def test_settings_that_make_no_sense_are_refused(arguments: list[str], sentence: str) -> None:
    found = refusal(*arguments, script="evaluate")
    assert found is not None and sentence in found


def test_training_serves_nobody() -> None:
    assert "belongs to evaluate.py" in str(refusal(POISSON))


def test_rates_rise_and_recorded_times_shrink(tmp_path: Path) -> None:
    times = tmp_path / "times.txt"
    times.write_text("1\n3\n")
    config = configured(
        "evaluation.load=trace",
        f"evaluation.trace={times}",
        "evaluation.rate=[4,2]",
        script="evaluate",
    )
    assert rates(config) == [2.0, 4.0]
    assert arrived(config, 4.0).tolist() == [0.25, 0.75]
    config = configured(POISSON, "evaluation.requests=9", script="evaluate")
    assert rates(config) == [1.0]
    assert np.array_equal(arrived(config, 1.0), arrived(config, 1.0))


def test_a_live_run_is_told_as_a_simulated_one() -> None:
    answers = [Answered([1, 2, 3], "length", "", 1.5, 3.5, 2, 1), Answered([4], "eos", "", 2, 2, 1)]
    made = BatchGeneration(answers, 3.5, rounds=3, prefills=2, offered=5, verified=4)
    served = live_figures(made, np.array([0.5, 1.0]))
    assert served.to_first.tolist() == [1.0, 1.0] and served.per_token.tolist() == [1.0, 0.0]
    found = served.figures(1.0, 0.5)
    assert found["tokens_per_second"] == pytest.approx(4 / 3.0)
    assert found["goodput"] == pytest.approx(1 / 3.0)
    assert (found["target_passes"], found["verified"], found["thrown_away"]) == (5, 4, 4)
    answers[1].error = "no room"
    with pytest.raises(RuntimeError, match="request 1 failed: no room"):
        live_figures(made, np.array([0.5, 1.0]))


@pytest.mark.slow
def test_all_controllers_serve_replayed_and_live(tmp_path: Path) -> None:
    config = configured(
        POISSON,
        "evaluation.rate=[5,50]",
        "evaluation.mode=both",
        "evaluation.rows=2",
        "evaluation.requests=5",
        "evaluation.prompts=1",
        "replay.prompts=1",
        "cost.seconds=1",
        "env.max_new_tokens=12",
        f"replay.cache={tmp_path}",
        f"runs={tmp_path}",
        script="evaluate",
    )
    folder = tmp_path / "run"
    folder.mkdir()
    results = evaluate_policy(config, folder, Console(quiet=True))
    assert json.loads((folder / "serving.json").read_text()) == results
    for mode in ("replay", "live"):
        assert (folder / f"serving-{mode}.png").stat().st_size > 10_000
        for point in results[mode]:
            plain, learned = (point["controllers"][n] for n in ("plain", "guarded_learned"))
            assert plain["verified"] == plain["thrown_away"] == 0
            assert learned["tokens_per_second"] > 0
        slow, fast = results[mode]
        assert fast["rate"] == 50 and slow["requests"] == 5
