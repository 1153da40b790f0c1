"""Learning what drafts of a row are worth."""

import numpy as np
import pytest

from adaspec_rl.config import AgentConfig
from adaspec_rl.control.batching.fixed import FixedForAll
from adaspec_rl.control.batching.outlook import outcomes
from adaspec_rl.control.batching.planned import PlannedBatch
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.replay.batch_replay import replay
from adaspec_rl.replay.batch_rows import BatchTables
from adaspec_rl.training.batch_hindsight import fit_outlook
from tests.recording.recordings import toy_trace
from tests.replay.test_batch_replay import flat_costs

SPEC = ObservationSpec(("history", "context"), 4, 16, 2)
CONFIG = AgentConfig(
    "hindsight", total_steps=2000, learning_rate=3e-3, batch_size=512, n_epochs=4, hidden=[32]
)


def test_outcomes_are_what_prices_make_of_a_draft():
    survival = np.array([[[0.9, 0.6, 0.3, 0.0]]])
    found = outcomes(survival, np.array([[2]]), np.array([0.5]), np.array([0.7]))
    assert found[0, 0, 0].tolist() == pytest.approx([0.5, 0.5, 0.0, 0.0])  # the third not verified
    assert found[0, 1, 0].tolist() == [1.0, 1.0, 0.0, 0.0]  # the second stops the draft
    rejected = outcomes(survival, np.array([[0]]), np.array([0.5]), np.array([0.5]))
    assert rejected[0, 0, 0].tolist() == pytest.approx([-0.5, -0.5, 0.0, 0.0])
    assert rejected[0, 1, 0].tolist() == [1.0, 1.0, 1.0, 0.0]


def test_the_policy_drafts_where_that_pays(tmp_path):
    tables = BatchTables(toy_trace(tmp_path))
    outlook, again = (
        fit_outlook(tables, SPEC, flat_costs(), CONFIG, depth=4, seed=0, sizes=(2, 8))
        for _ in range(2)
    )
    for weight, same in zip(outlook.network.weights, again.network.weights):
        np.testing.assert_array_equal(weight, same)
    order = [0, 1, 2, 3, 4] * 4
    plain = replay(tables, flat_costs(), FixedForAll(0), order, 2)
    learned = replay(tables, flat_costs(), PlannedBatch(outlook, flat_costs()), order, 2)
    assert learned.throughput > 1.1 * plain.throughput
    assert 0 < learned.accepted <= learned.verified <= learned.drafted
