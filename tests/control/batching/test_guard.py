"""The guard of batches, in a world with a clock of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaspec_rl.control.batch_controller import Load
from adaspec_rl.control.batching.guard import MEASURED, TRUSTED, GuardedBatch
from adaspec_rl.control.batching.rule import BatchRule
from adaspec_rl.decoding.round import FALLBACK, Action, Round

ROWS = 4


@dataclass(frozen=True, slots=True)
class Outcome:
    """A round that the guarded controller decides."""

    drafted: int
    accepted: int  # by every row
    seconds: float


class Scripted(BatchRule):
    """Plays what a script says."""

    name = "scripted"

    def __init__(self, script: Callable[[int], Outcome]) -> None:
        self._script, self._number = script, -1
        self.told = 0  # rounds that it was told of

    def decide(
        self, rows: Sequence[int], observations: np.ndarray | None, load: Load
    ) -> list[Action]:
        self._number += 1
        self.outcome = self._script(self._number)
        drafted = self.outcome.drafted
        return [Action(drafted) if drafted else FALLBACK] * len(rows)

    def observe(self, rows: Sequence[int], rounds: Sequence[Round], seconds: float) -> None:
        self.told += 1


class Rising:
    """A cost model by which plain rounds grow with rows and tokens, all `factor` too long."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def plain(self, rows: int, context: float) -> float:
        return 5.0 + rows + context / 100

    def verifying(self, rows, verified, context):
        return np.asarray(self.factor * (self.plain(rows, context) + verified))


@dataclass(slots=True)
class Totals:
    """Seconds and what plain decoding would have taken for as many tokens."""

    seconds: float = 0.0
    plain: float = 0.0
    decided: int = 0  # rounds of the guarded controller
    worst: float = 0.0  # the most plain rounds that one of these lost


def play(
    script: Callable[[int], Outcome],
    count: int,
    factor: float = 1.0,
    hiccups: Sequence[int] = (),
    pace: Callable[[int], float] = lambda number: 1.0,
    trusted: bool = False,
) -> Totals:
    """`count` rounds of `ROWS` rows; plain rounds number `hiccups` take ten times as long.

    `pace` gives, by the number of a round, how many times as long every round takes.
    """
    prices, scripted = Rising(factor), Scripted(script)
    guard = GuardedBatch(scripted, prices, trusted=trusted)
    guard.reset(ROWS)
    rows = list(range(ROWS))
    for row in rows:
        guard.admit(row, [1] * 30, 0)
    totals, context = Totals(), 30.0
    for number in range(count):
        decided = guard.looks
        guard.decide(rows, None, Load(ROWS, 0, context))
        plain = prices.plain(ROWS, context) * pace(number)
        made = Outcome(0, 0, plain * (10 if number in hiccups else 1))
        if decided:
            made = replace(scripted.outcome, seconds=scripted.outcome.seconds * pace(number))
            totals.decided += 1
            totals.worst = max(totals.worst, made.seconds / plain - made.accepted - 1)
        tokens = tuple(range(made.accepted + 1))
        round_ = Round(0, made.drafted, made.accepted, tokens, made.seconds)
        guard.observe(rows, [round_] * ROWS, made.seconds)
        totals.seconds += made.seconds if decided else plain
        totals.plain += len(tokens) * plain
        context += len(tokens)
        if context > 400:
            context = 30.0
            for row in rows:
                guard.admit(row, [1] * 30, 0)
    assert scripted.told == count
    return totals


outcomes = st.integers(0, 4).flatmap(
    lambda drafted: st.builds(
        Outcome, st.just(drafted), st.integers(0, drafted), st.floats(6.0, 60.0)
    )
)


@settings(max_examples=40, deadline=None)
@given(st.lists(outcomes, min_size=1, max_size=8), st.sampled_from((0.3, 1.0, 3.0)))
def test_no_controller_takes_more_than_it_is_allowed(played: list[Outcome], factor: float) -> None:
    """Whatever it does, in units of a long plain round."""
    count = 600
    totals = play(lambda number: played[number % len(played)], count, factor)
    longest = Rising().plain(ROWS, 404)
    lost = (totals.seconds - totals.plain) / longest
    assert lost <= 4.0 + totals.worst + 0.005 * count + 1e-6


def test_a_trusted_controller_may_begin_badly() -> None:
    """Six rounds lose a plain round each, before rounds that win half of one."""

    def script(number: int) -> Outcome:
        return Outcome(4, 0, 19.0) if number < 6 else Outcome(4, 3, 25.0)

    assert play(script, 300).decided < 20
    totals = play(script, 300, trusted=True)
    assert totals.decided > 280 and totals.seconds < 0.8 * totals.plain
    lost = play(lambda number: Outcome(4, 0, 19.0), 2000, trusted=True)
    assert lost.seconds - lost.plain < (16 + 1 + 0.005 * 2000) * Rising().plain(ROWS, 404)


def test_a_trusted_controller_is_interrupted_late_or_when_it_seems_to_lose() -> None:
    """Plain rounds are timed after many of its rounds, or once its balance is low."""
    pays, loses = Outcome(4, 3, 25.0), Outcome(2, 0, 14.0)
    assert play(lambda number: pays, TRUSTED, trusted=True).decided == TRUSTED
    assert play(lambda number: pays, TRUSTED + 8, trusted=True).decided == TRUSTED + 8 - MEASURED
    # A cost model by which plain rounds take half their time makes rounds that pay look bad.
    totals = play(lambda number: pays, 400, factor=0.3, trusted=True)
    assert totals.decided > 380 and totals.seconds < 0.8 * totals.plain
    # One by which they take twice as long hides a loss until plain rounds are timed; what seemed to
    # be saved by then is lost as well.
    lost = play(lambda number: loses, 4000, factor=2.0, trusted=True)
    assert TRUSTED <= lost.decided < 1.75 * TRUSTED


def test_what_was_won_pays_for_a_bad_stretch() -> None:
    """Of 240 rounds, 60 lose half a plain round each, the others win more than one."""

    def script(number: int) -> Outcome:
        return Outcome(4, 0, 16.0) if number % 240 >= 180 else Outcome(4, 3, 25.0)

    assert play(script, 960, trusted=True).decided > 940


def test_it_tries_again_after_a_loss() -> None:
    """Some hundred plain rounds pay for another trial, and then drafts may go on."""

    def script(number: int) -> Outcome:
        return Outcome(4, 0, 19.0) if number < 20 else Outcome(4, 3, 25.0)

    totals = play(script, 1000, trusted=True)
    assert totals.decided > 150 and totals.seconds < 0.9 * totals.plain


def test_plain_rounds_are_timed_again_before_a_balance_is_spent() -> None:
    """A machine that turns slow makes drafts look bad only for a moment."""
    slow = play(
        lambda number: Outcome(4, 3, 25.0),
        900,
        pace=lambda number: 3.0 if number > 800 else 1.0,
        trusted=True,
    )
    assert slow.decided > 880


def test_rounds_in_which_nothing_is_drafted_cost_what_deciding_takes() -> None:
    """They are no plain rounds by which others could be judged."""
    totals = play(lambda number: Outcome(0, 0, 18.0), 1000)
    assert totals.seconds < 1.015 * totals.plain


def test_slow_rounds_without_drafts_do_not_make_drafts_look_quick() -> None:
    slow, drafts = Outcome(0, 0, 25.0), Outcome(2, 1, 30.0)  # a plain one takes 9 to 13
    totals = play(lambda number: drafts if number % 4 else slow, 1000)
    assert totals.seconds < 1.02 * totals.plain


def test_what_pays_goes_on() -> None:
    totals = play(lambda number: Outcome(4, 3, 25.0), 200)
    assert totals.decided > 190 and totals.seconds < 0.8 * totals.plain


@pytest.mark.parametrize("pace", [0.6, 1.6])
def test_it_follows_a_machine_whose_speed_changes(pace: float) -> None:
    """Two tokens in one and a half plain rounds go on; in two and a half they are stopped."""

    def changed(number: int) -> float:
        return pace if number > 1500 else 1.0

    pays = play(lambda number: Outcome(2, 1, 16.0), 6000, pace=changed)
    loses = play(lambda number: Outcome(2, 1, 28.0), 6000, pace=changed)
    assert pays.decided > 4000
    assert loses.seconds < 1.02 * loses.plain


@pytest.mark.parametrize("hiccups", [(0,), (1,), (2,)])
def test_a_slow_plain_round_makes_nothing_look_quick(hiccups: tuple[int, ...]) -> None:
    totals = play(lambda number: Outcome(1, 0, 15.0), 1000, hiccups=hiccups)
    assert totals.decided < 40


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_plain_rounds_are_timed_first_and_anew_for_other_numbers_of_rows(factor: float) -> None:
    """One timed round does if it takes what the cost model says; otherwise another one follows."""
    guard = GuardedBatch(Scripted(lambda number: Outcome(4, 3, 12.0)), Rising())
    guard.reset(8)
    drafted = []
    for count in (8, 8, 2):
        rows = list(range(count))
        for row in rows:
            guard.admit(row, [1], 0)
        for _ in range(8):
            drafted.append(guard.looks)
            actions = guard.decide(rows, None, Load(count))
            length = actions[0].length
            round_ = Round(0, length, length, tuple(range(length + 1)), 1.0)
            guard.observe(rows, [round_] * count, factor * Rising().plain(count, 16.0))
    first = MEASURED + (factor > 1)  # afterwards, the machine is known to be slow
    assert drafted[:first] == [False] * first and all(drafted[first:17])
    assert drafted[17 : 17 + MEASURED] == [False] * MEASURED and all(drafted[17 + MEASURED :])
