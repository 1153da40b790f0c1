"""Costs that change while a policy decodes."""

from dataclasses import replace

import numpy as np
import pytest

from adaspec_rl.control.learned import LearnedPolicy
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.costs.profile import RoundCosts
from adaspec_rl.costs.randomised import drifting_costs
from adaspec_rl.costs.tracking import CostTracking
from adaspec_rl.decoding.round import Action, Round
from adaspec_rl.training.bundle import load_bundle, save_bundle
from tests.training.test_bundle import make_bundle

LENGTH = 8
COSTS = RoundCosts(
    context=64,
    batch_size=1,
    autoregressive_step=1.05,
    draft_step=(0.1, 0.01),
    stopping_step=(0.02, 0.0),
    verification=tuple(1.0 + 0.05 * k for k in range(LENGTH + 1)),
    overhead=(0.1, 0.05),
    catch_up=(0.0, 0.0),
)
# Four tokens are as cheap as one, as in compiled kernels.
STEPPED = replace(COSTS, verification=(1.0, 1.08, 1.1, 1.05, 1.25, 1.28, 1.3, 1.3, 1.5))
SPEC = ObservationSpec(("context", "cost", "lookup"), LENGTH, drafters=2)


class Wandering:
    """Takes its actions in turn and keeps what it saw."""

    name, observes = "wandering", SPEC

    def __init__(self, actions) -> None:
        self.actions, self.seen = actions, []

    def reset(self, prompt=(), seed=0) -> None:
        pass

    def decide(self, observation):
        self.seen.append(dict(zip(SPEC.names, observation * SPEC.scales)))
        return self.actions[len(self.seen) % len(self.actions)]

    def observe(self, round_) -> None:
        pass


def play(tracking: CostTracking, costs: RoundCosts, rounds: int, late: float = 1.0) -> dict:
    """What the policy sees after rounds that take what `costs` say; the last one `late` times."""
    rng = np.random.default_rng(0)
    for number in range(rounds):
        action = tracking.decide(np.full(len(SPEC), 7.0, np.float32))
        seconds = costs.seconds(action.drafter, action.length, action.stops)
        seconds *= rng.normal(1, 0.01) * (late if number == rounds - 1 else 1.0)
        tracking.observe(Round(action.drafter, action.length, 0, (1,), seconds))
    tracking.decide(np.full(len(SPEC), 7.0, np.float32))
    return tracking.policy.seen[-1]


ACTIONS = (Action(0), Action(2), Action(6, 1), Action(0), Action(4, 0, 0.3))


@pytest.mark.parametrize("memory, arithmetic", [(1.0, 1.0), (0.6, 1.5), (1.7, 0.7), (1.0, 2.5)])
@pytest.mark.parametrize("costs", [COSTS, STEPPED], ids=["even", "stepped"])
def test_a_policy_is_told_what_rounds_cost_now(costs, memory, arithmetic):
    tracking = CostTracking(Wandering(ACTIONS), costs)
    before = play(tracking, costs, 1)
    assert before["draft_step"] == pytest.approx(costs.features().draft_step, rel=1e-3)
    assert before["lookup_expected"] == pytest.approx(7.0 * 4.0)  # others are left alone
    now = costs.drifted(memory, arithmetic).features()
    found = play(tracking, costs.drifted(memory, arithmetic), 120)
    assert found["draft_step"] == pytest.approx(now.draft_step, rel=0.08)
    assert found["draft_step_1"] == pytest.approx(now.other_draft_steps[0], rel=0.08)
    assert found["overhead"] == pytest.approx(now.overhead, rel=0.08)
    assert found["verification_step"] == pytest.approx(now.verification_step, abs=0.015)


def test_drafts_of_one_length_tell_nothing_about_others():
    """Where three tokens are as cheap as none, many of them do not make longer drafts cheap."""
    tracking = CostTracking(Wandering((Action(0), Action(3), Action(3))), STEPPED)
    play(tracking, STEPPED.drifted(0.8, 2.0), 60)
    played = Wandering((Action(0), Action(3), Action(3), Action(3), Action(5)))
    tracking.policy = played
    found = play(tracking, STEPPED.drifted(0.8, 2.0), 60)
    wanted = STEPPED.drifted(0.8, 2.0).features().verification_step
    assert found["verification_step"] == pytest.approx(wanted, rel=0.1)


def test_an_interrupted_round_changes_little():
    tracking = CostTracking(Wandering(ACTIONS), COSTS)
    before = play(tracking, COSTS, 60)
    after = play(tracking, COSTS, 1, late=100.0)
    assert after["overhead"] == pytest.approx(before["overhead"], rel=0.2)


def test_memory_changes_all_forwards_and_arithmetic_the_wider_ones():
    now = STEPPED.drifted(0.6, 2.0)
    assert now.autoregressive_step == pytest.approx(0.65)
    assert now.verification[0] == pytest.approx(0.6)
    assert now.verification[3] == pytest.approx(0.6 + 2 * 0.05)
    assert now.verification[-1] == pytest.approx(0.6 + 2 * 0.5)
    assert now.draft_step == STEPPED.draft_step and now.overhead == STEPPED.overhead
    assert STEPPED.drifted(1.0, 1.0) == STEPPED


def test_policies_that_learned_under_drifting_costs_are_tracked(tmp_path):
    for costs, kind in (("drifting", CostTracking), ("profile", LearnedPolicy)):
        save_bundle(replace(make_bundle(), training={"costs": costs}), tmp_path / costs)
        bundle = load_bundle(tmp_path / costs)
        observation = np.zeros(len(bundle.spec), np.float32)
        assert type(bundle.tracked()) is kind and type(bundle.controller()) is LearnedPolicy
        assert type(bundle.guarded().controller) is kind
        assert bundle.tracked().decide(observation) in bundle.actions


def test_drawn_costs_drift_alike_at_all_contexts():
    points = [COSTS, replace(COSTS, context=256, verification=COSTS.verification)]
    drawn = [drifting_costs(np.random.default_rng(seed), points) for seed in range(50)]
    factors = [near.verification[0] for near, _ in drawn]
    assert all(near.verification == far.verification for near, far in drawn)
    assert 0.6 <= min(factors) < 0.75 and 1.4 < max(factors) <= 1.7
    slopes = [(near.verification[-1] - near.verification[0]) / 0.4 for near, _ in drawn]
    assert 0.6 <= min(slopes) < 0.75 and 2.0 < max(slopes) <= 2.5
