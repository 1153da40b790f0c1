"""Replayed streams keep Gymnasium's and Stable-Baselines3's manners."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from adaspec_rl.control.action import action_list
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.envs.reward import Reward
from adaspec_rl.envs.stable_baselines import AdaSpecVecEnv
from adaspec_rl.envs.vector import AdaSpecVectorEnv, ReplayGame
from adaspec_rl.replay.streams import ReplayStreams, ReplayTables
from tests.recording.recordings import profile, toy_trace

ACTIONS = action_list("length_threshold", 4, 2, (0.2, 0.6))
SPEC = ObservationSpec(max_length=4, vocab_size=8, drafters=2)
PROFILES = [profile(n) for n in range(2)]
STREAMS = 6


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> ReplayTables:
    trace = toy_trace(tmp_path_factory.mktemp("trace"), temperature=0.8, eos_ids=(2,))
    assert {text.finished for text in trace.texts} == {"eos", "length"}
    return ReplayTables(trace, ACTIONS)


def game_of(tables: ReplayTables, **options) -> ReplayGame:
    return ReplayGame(
        tables,
        SPEC,
        [item.contexts() for item in PROFILES],
        policy=[item.policy for item in PROFILES],
        streams=STREAMS,
        **options,
    )


def mirror(game: ReplayGame) -> ReplayStreams:
    """Streams that play the same texts, and never restart by themselves."""
    points = [item.contexts() for item in PROFILES]
    policy = [item.policy for item in PROFILES]
    streams = ReplayStreams(game.streams.tables, SPEC, points, policy=policy, streams=STREAMS)
    streams.start(slice(None), game.streams.text, game.streams.profile)
    return streams


def test_spaces_are_those_of_what_comes_out(tables):
    env = AdaSpecVectorEnv(game_of(tables))
    assert isinstance(env, gym.vector.VectorEnv) and env.num_envs == STREAMS
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert env.single_action_space == gym.spaces.Discrete(len(ACTIONS))
    assert env.single_observation_space.shape == (len(SPEC),)
    observation, info = env.reset(seed=1)
    assert observation in env.observation_space and info == {}
    env.action_space.seed(0)
    for _ in range(20):
        observation, rewards, terminated, truncated, _ = env.step(env.action_space.sample())
        assert observation in env.observation_space and observation.dtype == np.float32
        assert rewards.shape == (STREAMS,) and rewards.dtype == np.float32
        for ended in (terminated, truncated):
            assert ended.shape == (STREAMS,) and ended.dtype == bool
        assert not (terminated & truncated).any()
    env.close()


def test_texts_that_end_restart_in_the_same_step(tables):
    env = AdaSpecVectorEnv(game_of(tables))
    rng = np.random.default_rng(0)
    env.reset(seed=3)
    beside = mirror(env.game)
    reasons = []
    for _ in range(60):
        actions = rng.integers(len(ACTIONS), size=STREAMS)
        texts = beside.text.copy()
        observation, _, terminated, truncated, infos = env.step(actions)
        played = beside.step(actions)
        ended = terminated | truncated
        assert np.array_equal(ended, played.finished)
        assert np.array_equal(infos["steps"], played.steps)
        assert np.array_equal(infos["emitted"], played.emitted)
        last = beside.observation()
        assert np.array_equal(observation[~ended], last[~ended])
        assert ("final_obs" in infos) == ended.any()
        if not ended.any():
            continue
        assert np.array_equal(infos["_final_obs"], ended)
        for stream in range(STREAMS):
            if not ended[stream]:
                assert infos["final_obs"][stream] is None
                continue
            assert np.array_equal(infos["final_obs"][stream], last[stream])
            reason = tables.trace.texts[texts[stream]].finished
            assert (terminated[stream], truncated[stream]) == (reason == "eos", reason == "length")
            reasons.append(reason)
        rows = np.flatnonzero(ended)
        beside.start(rows, env.game.streams.text[rows], env.game.streams.profile[rows])
        assert np.array_equal(observation, beside.observation())  # of the new texts
    assert set(reasons) == {"eos", "length"}


def rollout(env: AdaSpecVectorEnv, seed: int | list[int] | None) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    seen = [env.reset(seed=seed)[0]]
    for _ in range(25):
        observation, rewards, *_ = env.step(rng.integers(len(ACTIONS), size=STREAMS))
        seen += [observation, rewards]
    return seen


def test_equal_seeds_give_equal_texts(tables):
    env = AdaSpecVectorEnv(game_of(tables))
    first, again = rollout(env, 5), rollout(AdaSpecVectorEnv(game_of(tables, seed=9)), 5)
    assert all(map(np.array_equal, first, again))
    assert not all(map(np.array_equal, first, rollout(env, 6)))


def test_a_list_of_seeds_is_as_good_as_its_first(tables):
    env = AdaSpecVectorEnv(game_of(tables))
    expected = rollout(env, 5)
    assert all(map(np.array_equal, expected, rollout(env, [5, 6, 7, 8, 9, 10])))


def test_a_mask_resets_some_streams_only(tables):
    env = AdaSpecVectorEnv(game_of(tables))
    env.reset(seed=3)
    for _ in range(3):
        before = env.step(np.full(STREAMS, 2))[0]
    streams = env.game.streams
    at = streams.at.copy()
    mask = np.arange(STREAMS) % 2 == 0
    observation, _ = env.reset(options={"reset_mask": mask})
    assert np.array_equal(observation[~mask], before[~mask])
    assert np.array_equal(streams.at[~mask], at[~mask])
    starts = tables.trace.starts[streams.text]
    assert np.array_equal(streams.at[mask], starts[mask]) and not (at == starts).all()
    again = env.reset(seed=5, options={"reset_mask": mask})[0]
    assert np.array_equal(again, env.reset(seed=5, options={"reset_mask": mask})[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reset_mask": [True] * (STREAMS - 1)}, r"of shape \[5\]: expected bool of shape \[6\]"),
        ({"reset_mask": [1] * STREAMS}, "6 set of int64"),
        ({"reset_mask": np.zeros(STREAMS, bool)}, "0 set of bool"),
        ({"prompt": 1}, "unknown option 'prompt': expected 'reset_mask'"),
    ],
)
def test_options_that_do_not_fit_are_refused(tables, options, message):
    env = AdaSpecVectorEnv(game_of(tables))
    with pytest.raises(ValueError, match=message):
        env.reset(options=options)
    with pytest.raises(ValueError, match="got 2 seeds: expected one, or 6"):
        env.reset(seed=[1, 2])


@pytest.mark.parametrize("kind", [AdaSpecVectorEnv, AdaSpecVecEnv])
@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([0, 0, 99, 0, 0, 0], "action of stream 2 is 99: expected an integer from 0 to 12"),
        ([0, -1, 0, 0, 0, 0], "action of stream 1 is -1: expected an integer from 0 to 12"),
        ([0.0] * STREAMS, "float64 of shape .*: expected one integer for each of 6 streams"),
        ([True] * STREAMS, "bool of shape"),
        (["1"] * STREAMS, "of shape .*: expected one integer for each of 6 streams"),
        ([0] * (STREAMS - 1), r"int64 of shape \[5\]: expected one integer for each of 6"),
        (0, r"int64 of shape \[\]"),
    ],
)
def test_actions_outside_of_the_space_are_refused(tables, kind, actions, message):
    env = kind(game_of(tables))
    env.reset()
    with pytest.raises(ValueError, match=message):
        env.step(np.array(actions))


def test_a_step_before_a_reset_is_refused(tables):
    env = AdaSpecVectorEnv(game_of(tables))
    env.reset(options={"reset_mask": np.arange(STREAMS) == 1})
    with pytest.raises(ValueError, match=r"call reset\(\) before step\(\)"):
        env.step(np.zeros(STREAMS, int))


@pytest.mark.parametrize("reward", ["throughput", "ratio", "accepted"])
def test_rewards_are_what_they_are_called(tables, reward):
    game = game_of(tables, reward=reward)
    game.reset()
    game.streams.rates[:] = [1.25, 1.5]
    rng = np.random.default_rng(0)
    for _ in range(20):
        rate = game.streams.rates[game.streams.profile]  # of the text that is played
        _, rewards, played, _ = game.step(rng.integers(len(ACTIONS), size=STREAMS))
        steps = played.steps + played.owed
        expected = {
            "throughput": played.emitted / rate - steps,
            "ratio": played.emitted / steps,
            "accepted": played.accepted,
        }
        assert np.allclose(rewards, expected[reward], atol=1e-6)


def test_an_unknown_reward_is_refused(tables):
    with pytest.raises(ValueError, match="unknown reward 'fame'"):
        game_of(tables, reward="fame")


def test_stable_baselines_gets_the_last_observation_of_each_text(tables):
    env, reference = AdaSpecVecEnv(game_of(tables)), AdaSpecVectorEnv(game_of(tables))
    env.seed(4)
    assert np.array_equal(env.reset(), reference.reset(seed=4)[0])
    rng = np.random.default_rng(1)
    ends = 0
    for _ in range(40):
        actions = rng.integers(len(ACTIONS), size=STREAMS)
        observation, rewards, dones, infos = env.step(actions)
        expected, paid, terminated, truncated, more = reference.step(actions)
        assert np.array_equal(observation, expected) and np.array_equal(rewards, paid)
        assert np.array_equal(dones, terminated | truncated) and len(infos) == STREAMS
        assert env.played is not None and np.array_equal(env.played.steps, more["steps"])
        for stream, info in enumerate(infos):
            assert ("terminal_observation" in info) == dones[stream]
            if dones[stream]:
                assert np.array_equal(info["terminal_observation"], more["final_obs"][stream])
                ends += 1
    assert ends > STREAMS


class Watch(BaseCallback):
    """Collects what PPO was given."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0
        self.ends = 0

    def _on_step(self) -> bool:
        assert self.locals["new_obs"].shape == (STREAMS, len(SPEC))
        assert np.isfinite(self.locals["rewards"]).all()
        self.steps += STREAMS
        self.ends += int(self.locals["dones"].sum())
        return True


def test_ppo_learns_on_it(tables):
    env, watch = AdaSpecVecEnv(game_of(tables)), Watch()
    agent = PPO("MlpPolicy", env, n_steps=16, batch_size=32, n_epochs=2, seed=0, device="cpu")
    before = [parameter.detach().clone() for parameter in agent.policy.parameters()]
    agent.learn(3 * 16 * STREAMS, callback=watch)
    assert watch.steps == 3 * 16 * STREAMS and watch.ends > 0
    after = list(agent.policy.parameters())
    assert any(not np.array_equal(a.numpy(), b.detach().numpy()) for a, b in zip(before, after))
    actions, _ = agent.predict(env.reset(), deterministic=True)
    assert actions.shape == (STREAMS,)
    env.close()


def test_what_stable_baselines_asks_of_streams(tables):
    env = AdaSpecVecEnv(game_of(tables))
    assert env.get_attr("reward") == [Reward("throughput")] * STREAMS
    assert env.get_attr("reward", [0, 2]) == [Reward("throughput")] * 2
    assert env.env_is_wrapped(gym.Wrapper) == [False] * STREAMS
    with pytest.raises(NotImplementedError, match="make a new environment"):
        env.set_attr("reward", "ratio")
    with pytest.raises(NotImplementedError, match="not separate environments"):
        env.env_method("reset")
