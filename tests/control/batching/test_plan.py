"""The best drafts of a batch."""

import numpy as np
import pytest

from adaspec_rl.control.batching.plan import Here, Rates, best_alike, best_drafts
from adaspec_rl.decoding.round import FALLBACK, Action
from tests.control.batching.test_planned import DEPTH, Priced, planned

RATES = Rates(2.0, 0.3, 0.4)


def test_an_outlook_is_asked_for_a_row_s_own_prices_and_for_every_threshold() -> None:
    outlook, asked = planned(0.5)._outlook, []

    class Heard:
        spec, depth = outlook.spec, outlook.depth

        def __call__(self, observations, prices):
            asked.append(list(prices))
            return outlook(observations, prices)

    here = Here.of(Priced(0.1), 4, 10.0, 1, DEPTH)
    seen = np.zeros((4, len(outlook.spec)), np.float32)
    best_drafts(Heard(), seen, np.zeros((4, 1)), here, RATES, True)
    best_drafts(Heard(), seen, np.zeros((4, 1)), here, RATES, False)
    assert asked == [[(0.3, 0.4), (0.0, 0.1), (0.0, 0.3), (0.0, 0.5), (0.0, 0.8)], [(0.3, 0.4)]]


def test_rows_that_draft_alike_stop_where_that_brings_more() -> None:
    """Half of what is drafted is spared by the threshold, and nothing of what is accepted."""
    here = Here.of(Priced(0.1), 4, 10.0, 1, DEPTH)
    levels = np.ones((1, DEPTH))
    gains, drafted = (
        np.array([each * levels for each in by_threshold])  # 0.1, 0.3, 0.5, 0.8
        for by_threshold in ((0.5, 0.5, 0.5, 0.1), (1.0, 1.0, 0.5, 1.0))
    )
    best, worth = best_alike(4 * gains, 4 * drafted, 4, np.array([0.25]), here, RATES)
    assert best == Action(DEPTH, 0, 0.5)
    token = 2.0 * (here.token + here.each[0])
    level = 2.0 * here.once[0]
    assert worth == pytest.approx(4 * DEPTH * (0.5 - token * 0.5) - DEPTH * level - 0.25)


def test_what_a_drafter_has_not_read_counts_against_drafting_alike() -> None:
    outlook = planned(0.5)._outlook
    here = Here.of(Priced(0.1), 4, 10.0, 1, DEPTH)
    seen = np.zeros((4, len(outlook.spec)), np.float32)
    found = [each.sum(axis=1) for each in outlook(seen, [(0.0, 0.1)])]
    _, worth = best_alike(*found, 4, np.zeros(1), here, RATES)
    assert worth > 0
    assert best_alike(*found, 4, np.array([worth + 0.1]), here, RATES) == (FALLBACK, 0.0)
