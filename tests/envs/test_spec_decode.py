"""The live environment keeps Gymnasium's manners."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as check_gymnasium
from stable_baselines3.common.env_checker import check_env as check_stable_baselines

from adaspec_rl.control.action import action_list
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.envs.reward import Reward
from adaspec_rl.envs.spec_decode import SpecDecodeEnv
from adaspec_rl.replay.cost_profile import CostProfile
from tests.toy import ToyModel, greedy_text, similar, toy_session

PROFILE = CostProfile("toy", 1.0, (0.1,), tuple(1.0 + 0.05 * w for w in range(9)), 0.1)
PROMPTS = [[1, 2], [3, 4, 5], [6]]


def make_env(eos_ids=(), max_new_tokens=12, **options) -> SpecDecodeEnv:
    target = ToyModel(seed=1)
    session = toy_session(
        target, [similar(target, 0.3)], eos_ids=eos_ids, max_new_tokens=max_new_tokens
    )
    return SpecDecodeEnv(session, PROMPTS, action_list(), ObservationSpec(), PROFILE, **options)


def test_both_checkers_are_content():
    env = make_env()
    env.spec = gym.spec("adaspec/SpecDecode-v0")
    assert env.spec.nondeterministic  # seconds are measured, so infos differ
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*(infinity|render).*")
        check_gymnasium(env, skip_render_check=True)
        check_stable_baselines(env)


def test_an_episode_generates_one_text():
    env = make_env()
    _, info = env.reset(seed=3, options={"prompt": 1})
    assert info["prompt"] == 1
    tokens, truncated = [], False
    while not truncated:
        _, _, terminated, truncated, info = env.step(4)
        assert not terminated
        tokens += info["round"].tokens
    assert tokens == greedy_text(ToyModel(seed=1), PROMPTS[1], 12)


def test_end_of_text_terminates():
    text = greedy_text(ToyModel(seed=1), PROMPTS[0], 12)
    env = make_env(eos_ids=[text[3]])
    env.reset(options={"prompt": 0})
    outcomes = [env.step(0)[2:4] for _ in range(text.index(text[3]) + 1)]
    assert outcomes[-1] == (True, False) and (True, False) not in outcomes[:-1]


def test_equal_seeds_give_equal_prompts():
    first, second = make_env(), make_env()
    drawn = [
        [env.reset(seed=5)[1]["prompt"], *(env.reset()[1]["prompt"] for _ in range(20))]
        for env in (first, second)
    ]
    assert drawn[0] == drawn[1] and len(set(drawn[0])) == 3


def test_rewards_cost_seconds_by_the_profile():
    env = make_env()
    env.reset(options={"prompt": 0})
    env.reward.rate = 1.25
    _, reward, _, _, info = env.step(0)
    assert info["seconds"] == 1.0 and reward == pytest.approx(1 / 1.25 - 1)
    _, reward, _, _, info = env.step(3)
    seconds = 3 * 0.1 + PROFILE.verification[3] + 0.1
    assert info["seconds"] == pytest.approx(seconds)
    assert reward == pytest.approx(len(info["round"].tokens) / 1.25 - seconds)


def test_rewards_may_cost_seconds_by_the_clock():
    env = make_env(timing="clock")
    env.reset(options={"prompt": 0})
    info = env.step(3)[4]
    assert info["seconds"] == info["round"].seconds


def test_average_reward_vanishes_at_the_best_rate():
    rounds = [(3, 2, 1.5), (1, 0, 1.0), (5, 4, 2.0)]  # emitted, accepted, seconds
    rate = sum(r[0] for r in rounds) / sum(r[2] for r in rounds)
    assert sum(Reward("throughput", 1.0, rate)(*r) for r in rounds) == pytest.approx(0)
    assert Reward("ratio", 0.5)(3, 2, 1.5) == 1.0
    assert Reward("accepted", 1.0)(3, 2, 1.5) == 2.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reward": "fame"}, "unknown reward 'fame'"),
        ({"timing": "moon"}, "unknown timing 'moon'"),
    ],
)
def test_unknown_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_env(**options)


def test_actions_beyond_the_profile_or_the_list_are_refused():
    target = ToyModel(seed=1)
    session = toy_session(target, [similar(target, 0.3)])
    with pytest.raises(ValueError, match="drafts 9 tokens but the cost profile covers 8"):
        SpecDecodeEnv(session, PROMPTS, action_list(max_length=9), ObservationSpec(), PROFILE)
    env = make_env()
    env.reset()
    with pytest.raises(ValueError, match="action 9 is not in 0 to 8"):
        env.step(np.int64(9))
