"""What can be foreseen: the oracle where all is known, an expectation where nothing is sure."""

from dataclasses import replace

import numpy as np
import pytest

from adaspec_rl.control.generation import generate
from adaspec_rl.costs.profile import CostProfile
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.recording.chances import survival_chances
from adaspec_rl.replay.foreseeable import foreseeable
from adaspec_rl.replay.oracle import oracle
from adaspec_rl.replay.schedule import ScheduleController
from adaspec_rl.replay.session import ReplaySession
from tests.recording.recordings import profile, toy_trace, toys


def without_catch_up(costs: CostProfile) -> CostProfile:
    points = tuple(replace(point, catch_up=(0.0, 0.0)) for point in costs.points)
    return replace(costs, points=points)


@pytest.mark.parametrize("seed", range(5))
def test_without_luck_it_is_the_oracle(tmp_path, seed: int) -> None:
    models = toys(seed)
    trace = toy_trace(tmp_path, models, temperature=0.0)
    costs = without_catch_up(profile(seed))
    chances = survival_chances(models.target, models.drafters, trace.texts, Sampling(0.0), 4)
    depths = np.arange(4)[:, None]
    kept = np.array([np.minimum(table.accepted, 4) > depths for table in trace.drafters])
    assert (chances == kept).all()
    found = foreseeable(trace, costs, chances).speedup
    assert found == pytest.approx(oracle(trace, costs).speedup)


def test_chances_under_sampling_are_how_often_tokens_survive(tmp_path) -> None:
    """Those of deeper tokens too, where the tokens before them were kept."""
    models, depth = toys(), 3
    hits, expected = np.zeros((2, depth)), np.zeros((2, depth))
    for run in range(30):
        trace = toy_trace(tmp_path / str(run), models, temperature=0.8, seed=100 * run)
        chances = survival_chances(
            models.target, models.drafters, trace.texts, Sampling(0.8), depth
        )
        for number, table in enumerate(trace.drafters):
            for k in range(depth):
                hits[number, k] += (table.accepted > k).mean()
                expected[number, k] += chances[number, k, table.accepted >= k].sum() / len(
                    table.accepted
                )
    assert hits.min() > 1
    assert hits / 30 == pytest.approx(expected / 30, abs=0.03)


def test_its_schedule_takes_the_expected_steps(tmp_path) -> None:
    """A controller follows it on many texts.

    It takes a little more: deeper chances are those along the text that came.
    """
    models, costs = toys(), without_catch_up(profile(0))
    played = expected = 0.0
    for run in range(30):
        trace = toy_trace(tmp_path / str(run), models, temperature=0.8, seed=100 * run)
        chances = survival_chances(models.target, models.drafters, trace.texts, Sampling(0.8), 4)
        plan = foreseeable(trace, costs, chances)
        assert plan.best.shape == (trace.starts[-1],)
        expected += plan.steps.sum()
        session = ReplaySession(trace, costs)
        controller = ScheduleController(trace, plan, "foreseeable")
        for text in trace.texts:
            prompt = text.prompt.tolist()
            made = generate(session, controller, prompt, cost=costs.at().features(), seed=text.seed)
            context = len(prompt)
            for round_ in made.rounds:
                played += round_.seconds / costs.at(context).autoregressive_step
                context += len(round_.tokens)
    assert expected < played < 1.06 * expected


def test_it_weighs_what_a_draft_may_bring(tmp_path) -> None:
    trace = toy_trace(tmp_path, toys(), temperature=0.8, max_new_tokens=2, max_length=1)
    costs = without_catch_up(profile(3, max_length=1))
    texts, chance = len(trace.texts), 0.4
    found = foreseeable(trace, costs, np.full((2, 1, 2 * texts), chance)).speedup

    def steps(text: int) -> float:
        length = len(trace.texts[text].prompt)
        point = min(costs.points, key=lambda p: abs(p.context - length))
        later = min(costs.points, key=lambda p: abs(p.context - length - 1))
        assert later.autoregressive_step > 0
        drafts = [point.seconds(d, 1) / point.autoregressive_step + (1 - chance) for d in (0, 1)]
        return min(2.0, *drafts)

    total = sum(steps(number) for number in range(texts))
    assert found == pytest.approx(2 * texts / total)
