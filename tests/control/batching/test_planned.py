"""The learned batch policy, with outlooks that are made up."""

import numpy as np
import pytest

from adaspec_rl.control.batch_controller import Load
from adaspec_rl.control.batching.allotment import marginal_price
from adaspec_rl.control.batching.outlook import PRICES, Outlook
from adaspec_rl.control.batching.planned import LONGEST, PlannedBatch
from adaspec_rl.control.learned import Actor
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.decoding.round import Action, Round
from tests.control.batching.test_rules import Linear

DEPTH = 3


class Priced(Linear):
    """Decisions take a second."""

    def deciding(self, rows):
        return 1.0


def planned(worth: float, **prices: float) -> PlannedBatch:
    """A policy that expects `worth` of every token less its price; all are drafted."""
    spec = ObservationSpec(("context",), DEPTH)
    weight = np.zeros((len(spec) + PRICES, 2 * DEPTH), dtype=np.float32)
    weight[len(spec), :DEPTH] = -1.0
    bias = np.array([worth] * DEPTH + [1.0] * DEPTH, dtype=np.float32)
    return PlannedBatch(Outlook(Actor((weight,), (bias,)), spec, DEPTH), Priced(0.1, **prices))


def played(policy: PlannedBatch, sizes: list[int]) -> list[tuple[bool, int]]:
    """Of each round, whether the policy looked and how much its rows drafted together."""
    policy.reset(max(sizes))
    for row in range(max(sizes)):
        policy.admit(row, [1], 0)
    found = []
    for count in sizes:
        rows = list(range(count))
        looks = policy.looks
        seen = np.zeros((count, len(policy.observes)), np.float32) if looks else None
        actions = policy.decide(rows, seen, Load(count))
        found.append((looks, sum(action.length for action in actions)))
        policy.observe(rows, [Round(0, 0, 0, (1,), 10.4)] * count, 10.4)
    return found


def test_it_rests_longer_and_longer_where_drafts_do_not_pay() -> None:
    found = played(planned(0.0), [4] * 1000)
    assert not any(drafted for _, drafted in found)
    at = np.flatnonzero([looks for looks, _ in found])
    rests = np.diff(at) - 1
    assert rests[:8].tolist() == [1, 2, 4, 8, 16, 32, 64, 64] and rests.max() == LONGEST


def test_it_looks_at_once_when_rows_become_few() -> None:
    found = played(planned(0.0), [8] * 40 + [2])
    assert not found[39][0]
    found = played(planned(0.0), [8] * 40 + [2] * 2)
    assert found[41][0]


def test_rows_draft_alike_while_a_look_brings_nothing_more() -> None:
    found = played(planned(0.5), [4] * 200)
    assert all(drafted == 4 * DEPTH for _, drafted in found)
    assert sum(looks for looks, _ in found) < 12


def test_the_prices_of_a_look() -> None:
    policy, asked = planned(0.5), []
    plan = policy._plan

    def heard(observations, unread, here, rates, alike):
        asked.append((rates, alike))
        return plan(observations, unread, here, rates, alike)

    policy._plan = heard
    played(policy, [4])
    ((rates, alike),) = asked
    assert 0 < rates.price < rates.stop < 1 and alike


def test_rows_keep_their_actions_between_looks() -> None:
    policy = varied(hold=3)
    looked, drafted = [], []
    for turn in range(12):
        looks = policy.looks
        if turn == 6:  # another text, which drafts as would be best for all rows
            policy.admit(2, [1], 0)
        actions = policy.decide(range(4), two_of_four(policy) if looks else None, Load(4))
        looked.append(looks)
        drafted.append([action.length for action in actions])
        policy.observe(range(4), [Round(0, 0, 0, (1,), 10.4)] * 4, 10.4)
    assert looked == [True, False, False, False] * 3
    assert drafted[:6] == [[DEPTH, DEPTH, 0, 0]] * 6
    assert policy._same == Action(DEPTH, 0, 0.1)
    assert drafted[6:8] == [[DEPTH, DEPTH, DEPTH, 0]] * 2 and drafted[8] == drafted[0]


def varied(**settings: int) -> PlannedBatch:
    """A policy that lets rows draft whose first feature is 1."""
    policy = planned(0.0)
    outlook = policy._outlook
    outlook.network.weights[0][0, :DEPTH] = 0.9
    outlook.network.biases[0][:DEPTH] = -0.3
    policy = PlannedBatch(outlook, Priced(0.1), **settings)
    policy.reset(4)
    for row in range(4):
        policy.admit(row, [1], 0)
    return policy


def two_of_four(policy: PlannedBatch) -> np.ndarray:
    """Observations of four rows, of which two draft."""
    seen = np.zeros((4, len(policy.observes)), np.float32)
    seen[:2, 0] = 1.0
    return seen


def test_it_looks_at_every_round_where_rows_differ() -> None:
    policy = varied()
    seen = two_of_four(policy)
    for _ in range(20):
        assert policy.looks
        actions = policy.decide(range(4), seen, Load(4))
        assert [action.length for action in actions] == [DEPTH, DEPTH, 0, 0]
        policy.observe(range(4), [Round(0, 0, 0, (1,), 10.4)] * 4, 10.4)


@pytest.mark.parametrize("begins, drafts", [(10.0, True), (40.0, False)])
def test_it_knows_what_a_round_with_drafts_costs_beyond_its_passes(
    begins: float, drafts: bool
) -> None:
    """Twelve tokens worth half a token each make 6, and a plain round 4 in 10.4 seconds."""
    found = played(planned(0.5, begins=begins), [4])
    assert (found[0][1] > 0) == drafts


@pytest.mark.parametrize(
    "prices, budget, expected",
    [
        ([0.0, 0.5, 1.0, 1.5, 2.0], 3, 0.5),  # all cost alike, and one token is not worth it
        ([0.0, 0.0, 0.0, 0.9, 1.8], 2, 0.75),  # two are free, and the third is dear
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 4, 0.0),  # all are verified, and one more would be free
        ([0.0, 0.95, 1.9, 2.85, 3.8], 0, 0.925),  # none is worth its price
    ],
)
def test_the_price_of_a_verified_token_lies_between_the_last_and_the_next(
    prices: list[float], budget: int, expected: float
) -> None:
    chances = np.array([0.9, 0.8, 0.7, 0.2])
    worth = np.concatenate([[0.0], chances.cumsum()]) - np.array(prices[:5])
    assert worth.argmax() == budget
    found = marginal_price(chances, np.array(prices), budget)
    assert found == pytest.approx(expected)


def test_rows_draft_at_the_price_of_recent_rounds() -> None:
    """At first a token costs its seconds at the rate that is hoped for, later at the real rate.

    Seconds are those of the cost model, as a machine that is slow in everything changes no price.
    """
    policy, prices = PlannedBatch(planned(0.5)._outlook, Priced(0.1), longest=0), []
    policy.reset(4)
    for row in range(4):
        policy.admit(row, [1], 0)
    seen = np.zeros((4, len(policy.observes)), np.float32)
    plan = policy._plan
    policy._plan = lambda *given: prices.append(given[3].price) or plan(*given)
    for _ in range(60):
        policy.decide(range(4), seen, Load(4))
        policy.allot(range(4), [np.array([0.9, 0.03])] + [np.array([0.03, 0.02])] * 3)
        policy.observe(range(4), [Round(0, 1, 0, (1,), 50.0)] * 4, 50.0)
    verifying, levels, deciding = 10.0 + 0.1 * (4 + 4), 2 * 0.1, 1.0
    assert prices[0] == pytest.approx(0.1 * 1.2 * 4 / 10.4)
    assert prices[-1] == pytest.approx(0.1 * 4 / (verifying + levels + deciding), rel=0.02)


def test_rounds_that_nobody_decided_change_no_price() -> None:
    """A guard plays them, perhaps before anything else; they take a text further all the same."""
    policy = planned(0.5)
    policy.reset(2)
    for row in range(2):
        policy.admit(row, [1, 2], 0)
    policy.observe(range(2), [Round(0, 0, 0, (1,), 10.2)] * 2, 10.2)
    assert (policy._tokens, policy._seconds, policy._written) == (0.0, 0.0, [3, 3])
    seen = np.zeros((2, len(policy.observes)), np.float32)
    policy.decide(range(2), seen, Load(2))
    policy.observe(range(2), [Round(0, 0, 0, (1,), 10.2)] * 2, 10.2)
    assert policy._tokens == 2.0 and policy._seconds > 10.0
