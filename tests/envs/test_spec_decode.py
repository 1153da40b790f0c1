"""The live environment keeps Gymnasium's manners."""

import warnings
from copy import deepcopy
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as check_gymnasium
from stable_baselines3.common.env_checker import check_env as check_stable_baselines

from adaspec_rl.control.action import action_list
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.costs.profile import CostProfile, RoundCosts
from adaspec_rl.decoding.round import FALLBACK, Action
from adaspec_rl.envs.replay import nominal_costs
from adaspec_rl.envs.reward import Reward
from adaspec_rl.envs.spec_decode import SpecDecodeEnv
from tests.toy import ToyModel, greedy_text, similar, toy_session

NEAR = RoundCosts(
    context=2,
    batch_size=1,
    autoregressive_step=1.0,
    draft_step=(0.1,),
    stopping_step=(0.02,),
    verification=tuple(1.0 + 0.05 * w for w in range(9)),
    overhead=(0.1,),
    catch_up=(0.01,),
)
FAR = replace(NEAR, context=6, autoregressive_step=2.0, draft_step=(0.3,))  # from 5 tokens on
PROFILE = CostProfile("toy", 0.01, (NEAR, FAR, replace(NEAR, batch_size=4, overhead=(0.5,))))
PROMPTS = [[1, 2], [3, 4, 5], [6]]


def make_env(eos_ids=(), max_new_tokens=12, actions=None, **options) -> SpecDecodeEnv:
    target = ToyModel(seed=1)
    session = toy_session(
        target, [similar(target, 0.3)], eos_ids=eos_ids, max_new_tokens=max_new_tokens
    )
    actions = actions or action_list()
    return SpecDecodeEnv(session, PROMPTS, actions, ObservationSpec(), PROFILE, **options)


def test_both_checkers_are_content():
    env = make_env()
    env.spec = deepcopy(gym.spec("adaspec/SpecDecode-v0"))
    env.spec.kwargs["profile"] = nominal_costs(1, 8)  # measuring takes a while
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
    env.rate = 1.25
    _, reward, _, _, info = env.step(0)
    assert info["seconds"] == 1.0 + 0.01 and reward == pytest.approx(
        1 / 1.25 - 1.01 - 0.01  # what the drafter has not read, it will have to
    )
    _, reward, _, _, info = env.step(3)
    reading = 3 * 0.01  # the prompt, and what the fallback emitted
    seconds = reading + 3 * 0.1 + NEAR.verification[3] + 0.1 + 0.01
    assert info["seconds"] == pytest.approx(seconds)
    assert reward == pytest.approx(len(info["round"].tokens) / 1.25 - (seconds - reading))


def test_rounds_are_costed_at_the_context_before_them():
    env = make_env()
    env.reset(options={"prompt": 0})
    context = len(PROMPTS[0])
    for _ in range(6):
        info = env.step(2)[4]
        costs = NEAR if context <= 4 else FAR  # 4 is as near to both: the shorter one
        unread = context if context == len(PROMPTS[0]) else 0  # the first draft reads the prompt
        assert info["seconds"] == pytest.approx(costs.seconds(0, 2, unread=unread) + 0.01)
        assert info["steps"] == pytest.approx(info["seconds"] / costs.autoregressive_step)
        context += len(info["round"].tokens)
        if env.session.finished:
            break
    assert context > 5


def test_a_threshold_costs_what_watching_it_takes():
    action = Action(3, 0, 1e-30)
    env = make_env(actions=[FALLBACK, action])
    env.reset(options={"prompt": 0})
    info = env.step(1)[4]
    assert info["round"].drafted == 3
    assert info["seconds"] == pytest.approx(2 * 0.01 + 3 * 0.12 + NEAR.verification[3] + 0.1 + 0.01)


def test_rounds_are_costed_at_the_batch_size():
    env = make_env(batch_size=4)
    env.reset(options={"prompt": 0})
    info = env.step(1)[4]
    assert info["seconds"] == pytest.approx(2 * 0.01 + 0.1 + NEAR.verification[1] + 0.5 + 0.01)
    with pytest.raises(ValueError, match="has no batch size 2, only 1, 4"):
        make_env(batch_size=2)


def test_rewards_may_cost_seconds_by_the_clock():
    env = make_env(timing="clock")
    env.reset(options={"prompt": 0})
    info = env.step(3)[4]
    assert info["seconds"] == info["round"].seconds


def test_average_reward_vanishes_at_the_best_rate():
    rounds = [(3, 2, 1.5), (1, 0, 1.0), (5, 4, 2.0)]  # emitted, accepted, steps
    rate = sum(r[0] for r in rounds) / sum(r[2] for r in rounds)
    assert sum(Reward("throughput")(*r, rate) for r in rounds) == pytest.approx(0)
    assert Reward("ratio")(3, 2, 1.5, 1.0) == 2.0
    assert Reward("accepted")(3, 2, 1.5, 1.0) == 2.0


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
    for action in (np.int64(9), -1, 10**30, True, 1.5, "1", None, np.array([1])):
        with pytest.raises(ValueError, match=r"the action is .*: expected an integer from 0 to 8"):
            env.step(action)
    env.step(np.array(1))  # as Stable-Baselines3 predicts it


@pytest.mark.parametrize("prompt", [10**30, -1, 3, True, 1.0, "1", None])
def test_only_prompts_that_there_are_can_be_asked_for(prompt):
    env = make_env()
    with pytest.raises(ValueError, match=r"option prompt is .*: expected an integer from 0 to 2"):
        env.reset(options={"prompt": prompt})
    with pytest.raises(ValueError, match="unknown option 'promt': expected 'prompt' or none"):
        env.reset(options={"promt": 1})


def test_steps_outside_of_an_episode_are_refused():
    env = make_env(max_new_tokens=1)
    with pytest.raises(ValueError, match=r"call reset\(\) before step\(\)"):
        env.step(0)
    env.reset(options={"prompt": np.int64(2)})
    assert env.step(0)[3]
    with pytest.raises(ValueError, match=r"call reset\(\) before step\(\)"):
        env.step(0)
