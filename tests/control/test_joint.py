"""Draft length and threshold together: the solver against enumeration, and live on a toy."""

import itertools

import numpy as np
import pytest

from adaspec_rl.control.generation import generate
from adaspec_rl.control.joint import LENIENCES, MILLISECOND, Joint, solve_joint
from adaspec_rl.control.observation import CostFeatures
from tests.toy import ToyModel, greedy_text, similar, toy_session

TARGET = ToyModel(8, seed=3, sharpness=1.5)
DRAFTER = similar(TARGET, 0.5)
UNSEEN = CostFeatures(0.0, 0.0, 0.0)


def toy_texts(seeds=range(1, 7), count=40):
    """The drafter's probability of its choice, and the target's share, along greedy texts."""
    found = []
    for seed in seeds:
        text = [seed, *greedy_text(TARGET, [seed], count)]
        rows = []
        for n in range(1, len(text)):
            own, drawn = (m.logits(text[:n]).softmax(-1) for m in (TARGET, DRAFTER))
            token = int(drawn.argmax())
            rows.append((float(drawn[token]), float(own[token] / own.max())))
        found.append(tuple(np.array(rows).T))
    return found


def solved(price=1.0, token_ms=5.0, max_length=4, **more):
    return solve_joint(toy_texts(), token_ms=token_ms, max_length=max_length, price=price, **more)


def text_of(table, prompt=(1, 2)):
    session = toy_session(TARGET, [DRAFTER], max_new_tokens=30)
    made = generate(session, Joint(table), prompt, cost=UNSEEN)
    return made, sum(played.distance for played in made.rounds)


def test_where_nothing_is_uncertain_the_value_is_known():
    texts = [(np.full(50, 0.9), np.ones(50))]
    table = solve_joint(texts, token_ms=10.0, max_length=3, price=1.0, round_ms=20.0)
    # Three tokens stand for certain; each costs 0.1, the round 0.2.
    assert table.value == pytest.approx(3 - 3 * 0.1 - 0.2, abs=1e-9)
    assert table.drafts and table.goes_on[:2, -1].all() and not table.goes_on[2].any()


def test_the_value_of_two_tokens_is_that_of_the_best_of_all_plans():
    """One bucket is ever seen, so that a plan is a T for the first token and whether to go on."""
    rng = np.random.default_rng(0)
    share = rng.choice([1.0, 0.6, 0.3, 0.1], size=2000)
    texts = [(np.full(2000, 0.9), share)]
    for price, token_ms in itertools.product((0.0, 0.5, 2.0), (1.0, 60.0)):
        table = solve_joint(texts, token_ms=token_ms, max_length=2, price=price)
        cost, best = MILLISECOND * token_ms, -np.inf
        exact = np.mean(share == 1)
        for lenience in LENIENCES:
            kept = share * lenience >= 1
            first = kept.mean() - price * (kept & (share < 1)).mean()
            best = max(best, first - cost, first - cost + kept.mean() * exact - cost)
        assert table.value == pytest.approx(best, abs=0.01)
        assert table.drafts == (table.value > 0)


def test_a_prohibitive_price_keeps_the_targets_text():
    made, distance = text_of(solved(price=1e6))
    assert distance == 0 and made.tokens == greedy_text(TARGET, [1, 2], 30)
    assert any(played.drafted for played in made.rounds)


def test_without_a_price_mismatches_stand_and_are_counted():
    table, off = solved(price=0.0), 0
    for first in range(8):
        made, distance = text_of(table, (first, 2))
        text = [first, 2]
        other = 0
        for token in made.tokens:  # none is less likely than a quarter of the best
            own = TARGET.logits(text).softmax(-1)
            assert own[token] * max(LENIENCES) >= own.max() - 1e-6
            other += int(own.argmax()) != token
            text.append(token)
        assert distance == other
        off += other
    assert off > 0


def test_dear_drafts_are_shorter_and_then_none():
    lengths = []
    for token_ms in (0.1, 20.0, 60.0):
        made, _ = text_of(solved(token_ms=token_ms))
        lengths.append(np.mean([played.drafted for played in made.rounds]))
    assert lengths[0] > lengths[1] >= lengths[2]
    assert not solved(token_ms=200.0).drafts


def test_nothing_can_be_solved_without_texts():
    with pytest.raises(ValueError, match="needs texts: expected at least 1 position"):
        solve_joint([], token_ms=1.0, max_length=4, price=1.0)
