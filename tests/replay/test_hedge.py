"""Hedge over actions, whose outcomes are all known once a round is verified."""

import numpy as np
import pytest

from adaspec_rl.decoding.round import FALLBACK, Action
from adaspec_rl.replay.hedge import hedge
from adaspec_rl.replay.oracle import fixed_steps, oracle
from tests.recording.recordings import profile, toy_trace

ACTIONS = [FALLBACK, Action(2), Action(4, 1), Action(3, 0, also=(1,))]


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    return toy_trace(tmp_path_factory.mktemp("traces"), max_new_tokens=30)


@pytest.mark.parametrize("action", ACTIONS)
def test_of_one_action_it_plays_that_one(trace, action):
    costs = profile(policy=0.0)
    assert hedge(trace, [action], costs) == pytest.approx(fixed_steps(trace, [action], costs)[0])


def test_it_finds_the_better_action_and_never_beats_hindsight(trace):
    costs = profile(policy=0.0)
    found = hedge(trace, ACTIONS, costs, rate=5.0)
    assert (oracle(trace, costs, actions=ACTIONS).steps <= found + 1e-9).all()
    fixed = fixed_steps(trace, ACTIONS, costs).sum(axis=1)
    assert found.sum() < fixed.mean()
    assert np.array_equal(found, hedge(trace, ACTIONS, costs, rate=5.0))
