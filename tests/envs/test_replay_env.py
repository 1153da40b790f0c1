"""The replayed environment as `gym.make` gives it."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_for_stable_baselines

import adaspec_rl.envs  # noqa: F401  (registers the environments)


@pytest.fixture(scope="module")
def env():
    return gym.make("adaspec/SpecDecodeReplay-v0", prompts=1, actions="length_threshold")


def test_it_passes_both_checkers(env):
    check_env(env.unwrapped, skip_render_check=True)
    check_for_stable_baselines(env.unwrapped, warn=False)


def test_the_same_seed_and_actions_give_the_same_episode(env):
    def episode() -> list:
        rng = np.random.default_rng(0)
        seen = [env.reset(seed=3)[0]]
        rewards = []
        ended = False
        while not ended:
            observation, reward, terminated, truncated, info = env.step(
                int(rng.integers(env.action_space.n))
            )
            seen.append(observation)
            rewards.append((reward, info["seconds"], info["round"].tokens))
            ended = terminated or truncated
        return [np.stack(seen), rewards]

    first, second = episode(), episode()
    assert (first[0] == second[0]).all() and first[1] == second[1]
