"""The environment of batches."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import adaspec_rl.envs  # noqa: F401
from adaspec_rl.envs.batch import FEATURES, make_batch_env
from tests.recording.recordings import toy_trace
from tests.replay.test_batch_replay import flat_costs


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    return toy_trace(tmp_path_factory.mktemp("trace"))


def test_it_is_an_environment(trace):
    made = gym.make(
        "adaspec/SpecDecodeBatch-v0", trace=trace, costs=flat_costs(), sizes=(1, 3), rounds=8
    )
    check_env(made.unwrapped, skip_render_check=True)


def test_rewards_are_gains_over_plain_rounds(trace):
    env = make_batch_env(trace, flat_costs(), sizes=(1, 2, 3), rounds=12)
    observation, info = env.reset(seed=1, options={"rows": 3})
    assert info["rows"] == 3 and observation.shape == (len(FEATURES),)
    for left in range(11, -1, -1):
        observation, reward, ended, truncated, info = env.step(np.array([2, 2]))
        assert reward == pytest.approx(info["tokens"] / 3 - info["seconds"] / 13)
        assert not ended and truncated == (left == 0)
    with pytest.raises(ValueError, match="call reset"):
        env.step(np.array([2, 2]))


def test_dear_drafts_are_shorter_than_cheap_ones(trace):
    drafted = []
    for factor in (0, 4):
        env = make_batch_env(trace, flat_costs(), sizes=(3,), rounds=30)
        env.reset(seed=0)
        drafted.append(sum(env.step(np.array([2, factor]))[0][2] for _ in range(30)))
    assert drafted[0] > drafted[1]


@pytest.mark.parametrize("action", [[5, 0], [0], 3])
def test_unknown_actions_are_refused(trace, action):
    env = make_batch_env(trace, flat_costs(), sizes=(1,))
    env.reset(seed=0)
    with pytest.raises(ValueError, match="expected 2 integers from 0 to 4"):
        env.step(action)
