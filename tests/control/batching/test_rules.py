"""Batch controllers, told what a batch would tell them."""

from array import array
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaspec_rl.control.baselines.fixed import FixedLength
from adaspec_rl.control.batch_controller import Load
from adaspec_rl.control.batching.allotment import likeliest, likeliest_in_arrays, padded, top
from adaspec_rl.control.batching.budget import VerificationBudget
from adaspec_rl.control.batching.by_batch_size import (
    ControllerByBatchSize,
    LengthByBatchSize,
    length_table,
)
from adaspec_rl.control.batching.fixed import FixedForAll
from adaspec_rl.control.batching.goodput import Goodput
from adaspec_rl.control.batching.plan import choose
from adaspec_rl.control.batching.rowwise import Rowwise
from adaspec_rl.control.batching.rule import BatchRule
from adaspec_rl.control.batching.tiers import TiersByBatchSize
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.decoding.round import FALLBACK, Action, Round
from adaspec_rl.engine.cpu.build import library


class Linear:
    """A pass of the target takes 10 s and `token` s a token more; a level of drafting `level` s.

    Rounds with drafts take `begins` s more.
    """

    def __init__(self, token: float, level: float = 0.1, begins: float = 0.0) -> None:
        self.token, self.level, self.begins = token, level, begins

    def verifying(self, rows, verified, context):
        return 10.0 + self.token * (rows + verified) + 0.0 * context

    def drafting(self, drafter, rows, context, unread=0.0, stopping=False):
        return self.level * (np.asarray(rows) > 0) + 0.0 * np.asarray(unread)

    def beginning(self, drafter, rows):
        return self.begins * (np.asarray(rows) > 0)


def rounds(drafted: int, accepted: int, count: int) -> list[Round]:
    return [Round(0, drafted, accepted, tuple(range(accepted + 1)), 1.0)] * count


def begun(controller, rows: int):
    controller.reset(rows)
    for row in range(rows):
        controller.admit(row, [1, 2, 3], 0)
    return list(range(rows)), Load(rows)


def length_of(controller, rows: int) -> int:
    made = controller.decide(list(range(rows)), None, Load(rows))
    assert len(made) == rows and len(set(made)) == 1
    return made[0].length


drafts = st.lists(
    st.lists(st.sampled_from((0.1, 0.5, 0.8, 0.9, 1.0)), max_size=5), min_size=1, max_size=6
)


@given(drafts, st.data())
def test_the_top_tokens_are_prefixes_and_the_likeliest(chances, data):
    survivals = [np.cumprod(np.array(row)) for row in chances]
    everything = np.sort(np.concatenate(survivals))[::-1]
    budget = data.draw(st.integers(0, len(everything)))
    counts = top(padded(survivals), budget)
    assert counts.sum() == budget
    taken = [survival[:count] for survival, count in zip(survivals, counts)]
    assert np.sort(np.concatenate(taken))[::-1] == pytest.approx(everything[:budget])


@given(
    drafts,
    st.lists(st.sampled_from((0.0, 0.1, 0.7)), min_size=31, max_size=31),
    st.sampled_from((0.0, 2.0)),
    st.sampled_from((0.0, 0.5, 3.0)),
)
def test_the_compiled_budget_is_that_in_arrays(chances, steps, before, worth):
    library()
    survivals = [np.cumprod(np.array(row)) for row in chances]
    seconds = 1.0 + np.cumsum(steps)
    found, expected = (
        way(survivals, array("d", seconds), before=before, worth=worth)
        for way in (likeliest, likeliest_in_arrays)
    )
    assert found.price == pytest.approx(expected.price, abs=1e-12)
    value = [worthy(survivals, before + seconds, worth, one.counts) for one in (found, expected)]
    assert value[0] == pytest.approx(value[1], abs=1e-12)


def worthy(survivals, seconds, worth, counts) -> float:
    """What a budget is worth."""
    tokens = sum(own[:count].sum() for own, count in zip(survivals, counts))
    spent = seconds[sum(counts)]
    return tokens - worth * spent if worth else (len(survivals) + tokens) / spent


def test_the_budget_grows_until_tokens_cost_more_than_they_bring():
    survivals = [np.array([0.9, 0.5]), np.array([0.2]), np.array([])]
    for token, wanted in ((0.0, [2, 1, 0]), (2.0, [2, 0, 0]), (4.0, [1, 0, 0]), (50.0, [0, 0, 0])):
        budget = VerificationBudget(Linear(token), {1: Action(2)})
        rows, load = begun(budget, 3)
        budget.decide(rows, None, load)
        assert budget.allot(rows, survivals) == wanted
        assert budget.allot(rows, [np.array([])] * 3) == [0, 0, 0]


def test_tables_go_by_batch_size():
    table = LengthByBatchSize({1: Action(5), 8: Action(2), 64: FALLBACK})
    assert [length_of(table, rows) for rows in (1, 7, 8, 63, 64, 500)] == [5, 5, 2, 2, 0, 0]
    with pytest.raises(ValueError, match="begins with 1 row"):
        LengthByBatchSize({2: Action(1)})


class Told(BatchRule):
    """Drafts `length` tokens, and keeps what it is told."""

    name = "told"

    def __init__(self, length: int) -> None:
        self.length, self.rounds = length, 0
        self.texts: dict[int, list[int]] = {}

    def reset(self, rows: int) -> None:
        self.texts, self.rounds = {}, 0

    def admit(self, row: int, prompt: Sequence[int], seed: int) -> None:
        self.texts[row] = list(prompt)

    def decide(
        self, rows: Sequence[int], observations: np.ndarray | None, load: Load
    ) -> list[Action]:
        return [Action(self.length)] * len(rows)

    def observe(self, rows: Sequence[int], rounds: Sequence[Round], seconds: float) -> None:
        self.rounds += 1


def test_controllers_go_by_batch_size_and_are_told_the_prompts_as_they_take_over():
    few, many = Told(5), Told(2)
    both = ControllerByBatchSize({1: few, 4: many, 8: few})
    rows, load = begun(both, 8)
    assert length_of(both, 8) == 5
    both.observe(rows, rounds(2, 2, 8), 1.0)
    assert (few.rounds, many.rounds, many.texts) == (1, 0, {})
    both.observe(rows[2:6], rounds(2, 1, 4), 1.0)  # four rows are left
    assert length_of(both, 4) == 2
    assert many.texts == {row: [1, 2, 3] for row in rows[2:6]}
    both.admit(0, [7], 0)
    both.observe([0, *rows[2:6]], rounds(0, 0, 5), 1.0)
    assert many.rounds == 1 and many.texts[0] == [7] and few.rounds == 1
    assert not both.looks and both.observes is None


class Observing(BatchRule):
    """Asks for an observation, and does not draft."""

    name = "observing"

    def __init__(self, group: str) -> None:
        self.observes = ObservationSpec((group,))

    def decide(
        self, rows: Sequence[int], observations: np.ndarray | None, load: Load
    ) -> list[Action]:
        return [FALLBACK] * len(rows)


def test_controllers_of_a_table_look_only_while_they_act():
    both = ControllerByBatchSize({1: Observing("history"), 2: FixedForAll(0)})
    begun(both, 2)
    assert both.observes == ObservationSpec(("history",)) and not both.looks
    both.observe([0], rounds(0, 0, 1), 1.0)
    assert both.looks
    with pytest.raises(ValueError, match="observe different features"):
        ControllerByBatchSize({1: Observing("history"), 2: Observing("context")})
    with pytest.raises(ValueError, match="begins with 1 row"):
        ControllerByBatchSize({2: Observing("history")})


def test_the_best_length_falls_with_the_load():
    chances = [0.7 ** np.arange(1, 9), 0.3 ** np.arange(1, 9)]
    table = length_table(chances, Linear(0.2), (1, 8, 64, 512), 100.0)
    lengths = [table[size].length for size in (1, 8, 64, 512)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > 3 and lengths[-1] == 0
    rates = [  # by hand, for 8 rows
        (1 + chances[0][:k].sum()) / (10 + 0.2 * 8 * (1 + k) + 0.1 * k) for k in range(9)
    ]
    assert lengths[1] == int(np.argmax(rates))


def test_goodput_follows_acceptance_and_load():
    goodput = Goodput(Linear(0.2), 8, start=0.5, probe=3)
    rows, load = begun(goodput, 4)
    before = length_of(goodput, 4)
    for _ in range(40):
        goodput.observe(rows, rounds(4, 4, 4), 1.0)
    assert length_of(goodput, 4) > before
    for _ in range(80):
        goodput.observe(rows, rounds(4, 0, 4), 1.0)
    assert [length_of(goodput, 4) for _ in range(6)] == [0, 0, 1, 0, 0, 1]


def test_tiers_have_an_average_for_each_batch_size():
    tiers = TiersByBatchSize(8)
    assert length_of(tiers, 64) == 0
    for _ in range(30):
        tiers.observe([0], rounds(5, 5, 1), 1.0)
    assert length_of(tiers, 1) == 7
    assert length_of(tiers, 9) == 1
    for _ in range(30):
        tiers.observe(list(range(9)), rounds(1, 1, 9), 1.0)
    assert length_of(tiers, 9) == 3


def test_rows_have_controllers_of_their_own():
    made = []

    def make():
        made.append(FixedLength(len(made)))
        return made[-1]

    rowwise = Rowwise(make)
    rowwise.reset(3)
    actions = rowwise.decide([0, 2], None, Load(2))
    assert [action.length for action in actions] == [made[1].action.length, 3]


def test_rows_choose_their_draft_and_share_its_levels():
    value = np.zeros((3, 2, 4))
    value[0, 0] = [0, 1.0, 1.8, 2.4]
    value[1, 0] = [0, 0.5, 0.7, 0.6]
    value[2, 1] = [0, -0.1, 0.2, 0.1]
    drafter, length, gain = choose(value, np.zeros(2), np.zeros(2))
    assert gain == pytest.approx(2.4 + 0.7 + 0.2)
    assert list(zip(drafter, length)) == [(0, 3), (0, 2), (1, 2)]
    drafter, length, gain = choose(value, np.array([0.9, 0.0]), np.zeros(2))
    # A third level does not pay any more.
    assert gain == pytest.approx(1.8 + 0.7 + 0.2 - 2 * 0.9)
    assert list(zip(drafter, length)) == [(0, 2), (0, 2), (1, 2)]
    assert choose(value, np.array([2.0, 0.0]), np.zeros(2))[1].tolist() == [0, 0, 2]
    assert choose(value, np.zeros(2), np.array([4.0, 0.3]))[1].tolist() == [0, 0, 0]
