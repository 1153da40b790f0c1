"""The replayed environment as `gym.make` gives it."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_for_stable_baselines

import adaspec_rl.envs  # noqa: F401  (registers the environments)
from adaspec_rl.envs.vector import AdaSpecVectorEnv


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


def test_a_vector_of_them_is_natively_batched(env):
    trace = env.unwrapped.session.trace
    vector = gym.make_vec(
        "adaspec/SpecDecodeReplay-v0",
        num_envs=3,
        vectorization_mode="vector_entry_point",
        trace=trace,
        actions="length_threshold",
    )
    assert isinstance(vector, AdaSpecVectorEnv) and vector.num_envs == 3
    assert vector.single_action_space == env.action_space
    assert vector.single_observation_space == env.observation_space
    observation, _ = vector.reset(seed=1)
    texts = vector.game.streams.text.tolist()
    ended = np.zeros(3, dtype=bool)
    steps = []
    for turn in range(3):
        actions = np.arange(3) + 4 * turn
        observation, rewards, terminated, truncated, _ = vector.step(actions)
        steps.append((actions, observation, rewards, ended.copy()))
        ended |= terminated | truncated
    for stream, number in enumerate(texts):  # as the single environment plays them
        env.reset(options={"prompt": number})
        for actions, observation, rewards, over in steps:
            if over[stream] or env.unwrapped.session.finished:
                break
            seen, reward, terminated, truncated, _ = env.step(actions[stream])
            assert reward == pytest.approx(rewards[stream], abs=1e-5)
            if not (terminated or truncated):
                assert np.allclose(seen, observation[stream], atol=1e-5)
    with pytest.raises(ValueError, match="num_envs must be at least 1, got 0"):
        gym.make_vec("adaspec/SpecDecodeReplay-v0", num_envs=0, trace=trace)
