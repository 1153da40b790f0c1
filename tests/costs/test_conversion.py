"""Costs of single texts and of batches say the same of rounds in which all rows do the same."""

import numpy as np
import pytest

from adaspec_rl.costs.batch_costs import Drafting
from adaspec_rl.costs.conversion import batch_costs, cost_profile
from tests.recording.recordings import profile


def test_equal_rows_cost_what_the_profile_says():
    known = profile(drafters=2, max_length=4, batch_sizes=(1, 4, 16))
    made = batch_costs(known)
    for point in known.points:
        size, at = np.array([float(point.batch_size)]), np.array([float(point.context)])
        plain = float(made.verifying(size, np.zeros(1), at)[0])
        assert plain == pytest.approx(point.autoregressive_step)
        for drafter in range(2):
            for drafted in (1, 3, 4):
                rows = np.zeros((1, 2, 4))
                rows[0, drafter, :drafted] = point.batch_size
                drafting = Drafting(rows, np.zeros((1, 2)), np.zeros((1, 2, 4), dtype=bool))
                found = float(made.seconds(size, size * drafted, at, drafting)[0])
                once = np.median([other.overhead[drafter] for other in known.points])
                expected = point.seconds(drafter, drafted) - point.overhead[drafter] + once
                assert found == pytest.approx(expected)


def test_a_profile_comes_back_from_batch_costs():
    known = profile(drafters=2, max_length=4, batch_sizes=(1, 8))
    back = cost_profile(batch_costs(known), (1, 8), (3, 8, 14), 4)
    assert [p.context for p in back.points] == [p.context for p in known.points]
    for made, point in zip(back.points, known.points):
        assert made.autoregressive_step == pytest.approx(point.autoregressive_step)
        assert made.draft_step == pytest.approx(point.draft_step)
        assert made.catch_up == pytest.approx(point.catch_up)
        assert made.verification[1:] == pytest.approx(point.verification[1:])


def test_what_the_policy_takes_is_charged_by_row():
    known = profile(drafters=1, max_length=2)
    assert batch_costs(known).deciding(4) == pytest.approx(4 * known.policy)
