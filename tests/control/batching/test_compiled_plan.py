"""Plans in compiled code are those in NumPy."""

from dataclasses import replace

import numpy as np
import pytest

from adaspec_rl.control.batching.compiled_plan import CompiledPlanner
from adaspec_rl.control.batching.outlook import PRICES, Outlook
from adaspec_rl.control.batching.plan import Here, Rates, best_drafts
from adaspec_rl.control.learned import Actor
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.engine.cpu.build import library
from tests.control.batching.test_rules import Linear

SPEC = ObservationSpec(("history", "drafters", "context"), 5, drafters=2)


def outlook_of(rng: np.random.Generator, hidden: list[int], depth: int) -> Outlook:
    sizes = [len(SPEC) + PRICES, *hidden, SPEC.drafters * depth * 2]
    weights = [rng.normal(0, 0.6, (a, b)).astype(np.float32) for a, b in zip(sizes, sizes[1:])]
    biases = [rng.normal(0.2, 0.3, b).astype(np.float32) for b in sizes[1:]]
    return Outlook(Actor(tuple(weights), tuple(biases)), SPEC, depth)


def here_of(rng: np.random.Generator, rows: int, depth: int) -> Here:
    """Costs with a step, drafters of which one has nothing to read."""
    made = Here.of(Linear(0.02), rows, 100.0, SPEC.drafters, depth)
    growing = np.cumsum(rng.random(rows * depth + 1)) + rows
    reading = np.stack([np.cumsum(rng.random(len(made.unread))), np.ones(len(made.unread))])
    once, each, begins, begun = rng.random((4, SPEC.drafters)) * [[1.0], [0.1], [0.5], [0.1]]
    return replace(
        made,
        verifying=growing,
        once=once,
        each=each,
        begins=begins,
        begun=begun,
        reading=reading,
    )


@pytest.mark.parametrize("hidden", [[], [7], [32, 32]])
@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("alike", [True, False])
def test_it_is_the_same_plan(hidden: list[int], rows: int, alike: bool) -> None:
    rng = np.random.default_rng(rows)
    drafted = together = 0
    for depth in (1, 5, 12) * 4:
        outlook, here = outlook_of(rng, hidden, depth), here_of(rng, rows, depth)
        compiled = CompiledPlanner(library(), outlook)
        for rate in (0.02, 0.1, 0.6):
            seen = rng.normal(size=(len(SPEC), rows)).astype(np.float32).T  # as observers give it
            unread = rng.integers(0, 200, (rows, SPEC.drafters)).astype(float)
            rates = Rates(rate, 0.3, 0.4, verify=0.9, draft=0.8, read=0.7)
            expected = best_drafts(outlook, seen, unread, here, rates, alike)
            found = compiled(seen, unread, here, rates, alike)
            assert found.gain == pytest.approx(expected.gain, rel=1e-4, abs=1e-4)
            assert found.gain_alike == pytest.approx(expected.gain_alike, rel=1e-4, abs=1e-4)
            assert (found.drafters, found.lengths) == (expected.drafters, expected.lengths)
            assert found.alike == expected.alike
            drafted += sum(found.lengths)
            together += found.alike.length
    assert drafted and bool(together) == alike


def test_it_keeps_the_seconds_of_each_place_apart() -> None:
    rng = np.random.default_rng(0)
    outlook = outlook_of(rng, [8], 3)
    compiled = CompiledPlanner(library(), outlook)
    places = [here_of(rng, 4, 3) for _ in range(3)]
    seen, unread = np.zeros((4, len(SPEC)), np.float32), np.full((4, 2), 50.0)
    gains = []
    for here in places * 2:
        rates = Rates(0.05, 0.1, 0.2)
        expected = best_drafts(outlook, seen, unread, here, rates, True)
        gains.append(compiled(seen, unread, here, rates, True).gain)
        assert gains[-1] == pytest.approx(expected.gain, rel=1e-4)
    assert gains[:3] == gains[3:] and np.ptp(gains) > 0.01 * gains[0]
