"""Replays batched decoding from a trace, under the controllers of live batched decoding."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from adaspec_rl.control.batch_controller import BatchController, Load
from adaspec_rl.costs.batch_costs import BatchCosts
from adaspec_rl.costs.batch_measurement import line
from adaspec_rl.decoding.round import Action, Round, check_chain
from adaspec_rl.replay.batch_rows import BatchRounds, BatchRows, BatchTables
from adaspec_rl.replay.outcomes import check_action


@dataclass(frozen=True, slots=True)
class DecisionCosts:
    """Seconds that a controller takes in a round: a fixed part, and a part per row."""

    looking: tuple[float, float] = (0.0, 0.0)  # in rounds before which it looks
    other: tuple[float, float] = (0.0, 0.0)

    def seconds(self, rows: int, looks: bool) -> float:
        once, each = self.looking if looks else self.other
        return once + each * rows


@dataclass(frozen=True, slots=True)
class Played:
    """A round of a replayed batch."""

    rows: list[int]  # rows that held a text
    texts: np.ndarray  # [n], the number of each row's text
    rounds: BatchRounds  # all rows, with or without a text
    ended: list[int]  # rows whose text ended
    seconds: float


class BatchReplay:
    """One batch of rows that hold recorded texts; a controller decides every round.

    The controller sees rounds without signals, and `Round.seconds` is that of the whole batch.

    Attributes:
        spent: with a `clock`, for each round its rows, whether the controller looked, and the
            seconds that it took to observe, decide, allot and learn.
    """

    def __init__(
        self,
        tables: BatchTables,
        costs: BatchCosts,
        controller: BatchController,
        rows: int,
        *,
        deciding: DecisionCosts | None = None,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """`deciding` gives the controller's seconds; None: what `costs` says about looks."""
        self.tables, self.costs, self.controller = tables, costs, controller
        self.deciding = deciding or DecisionCosts((costs.policy, costs.policy_row))
        self.spent: list[tuple[int, bool, float]] = []
        self._clock = clock
        self.state = BatchRows(tables, np.zeros(rows, dtype=np.int64), [costs], controller.observes)
        self._tokens = [text.tokens.tolist() for text in tables.trace.texts]
        self._checked: set[Action] = set()
        controller.reset(rows)

    @property
    def free(self) -> list[int]:
        """Rows without a text."""
        return np.flatnonzero(~self.state.active).tolist()

    def admit(self, row: int, text: int) -> None:
        """Start recorded text number `text` in a free row."""
        assert not self.state.active[row], f"row {row} holds a text"
        recorded = self.tables.trace.texts[text]
        self.state.start(np.array([row]), np.array([text]))
        self.controller.admit(row, recorded.prompt.tolist(), recorded.seed)

    def step(self, waiting: int = 0) -> Played:
        """Play one round of all rows that hold a text.

        Raises:
            ValueError: an action was not recorded.
        """
        state, controller = self.state, self.controller
        rows = np.flatnonzero(state.active)
        listed = rows.tolist()
        context = float(self.tables.context[state.at[rows]].mean())
        load = Load(len(listed), waiting, context)
        clock = self._clock
        began = clock()
        asked = controller.observes is not None and controller.looks
        seen = state.observation()[rows] if asked else None
        actions = controller.decide(listed, seen, load)
        spent = clock() - began
        survivals = self._draft(rows, actions)
        lengths = np.count_nonzero(survivals, axis=1)
        offered = [own[:length].tolist() for own, length in zip(survivals, lengths)]
        verified = np.zeros(len(state.active), dtype=np.int64)
        began = clock()
        if controller.allots:
            verified[rows] = controller.allot(listed, offered)
        else:
            verified[rows] = lengths
        spent += clock() - began
        before, texts = state.at[rows], state.text[rows]
        played = state.verify(verified)
        seconds = float(played.seconds[0])
        seconds += self.deciding.seconds(len(listed), asked)
        told = self._rounds(rows, before, played, seconds)
        began = clock()
        controller.observe(listed, told, seconds)
        self.spent.append((len(listed), asked, spent + clock() - began))
        ended = np.flatnonzero(played.finished).tolist()
        return Played(listed, texts, played, ended, seconds)

    def _draft(self, rows: np.ndarray, actions: Sequence[Action]) -> np.ndarray:
        """Draft in `rows`. Returns the survivals `[n, K]` of the drafted tokens."""
        for action in set(actions) - self._checked:
            check_chain(action, "a replayed batch")
            check_action(self.tables.trace, action)
            if action.rule is not None:
                raise ValueError("rules that stop a draft are not replayed in batches")
            self._checked.add(action)
        count = len(self.state.active)
        told = np.zeros((3, count))
        told[:, rows] = np.array([(a.drafter, a.length, a.threshold) for a in actions]).T
        drafter, length = told[:2].astype(np.int64)
        return self.state.draft(drafter, length, told[2], self.controller.allots)[rows]

    def _rounds(
        self, rows: np.ndarray, before: np.ndarray, played: BatchRounds, seconds: float
    ) -> list[Round]:
        """The rounds of the rows that held a text, without signals."""
        texts = self.state.text[rows]
        made = (before - self.tables.trace.starts[texts]).tolist()
        columns = zip(
            texts.tolist(),
            made,
            *(
                values[rows].tolist()
                for values in (played.drafter, played.verified, played.accepted, played.emitted)
            ),
        )
        return [
            Round(
                drafter,
                verified,
                accepted,
                tuple(self._tokens[text][start : start + emitted]),
                seconds,
            )
            for text, start, drafter, verified, accepted, emitted in columns
        ]


@dataclass(slots=True)
class Totals:
    """A controller's totals over all work of a batch."""

    tokens: np.ndarray  # [N] emitted in each text
    seconds: np.ndarray  # [N] each text's even share of the rounds that it was in
    rounds: int = 0
    drafted: int = 0
    verified: int = 0
    accepted: int = 0

    @property
    def throughput(self) -> float:
        """Tokens per second of all rows together."""
        return float(self.tokens.sum() / self.seconds.sum())

    def take(self, played: Played) -> None:
        """Add a round."""
        rounds = played.rounds
        np.add.at(self.tokens, played.texts, rounds.emitted[played.rows])
        np.add.at(self.seconds, played.texts, played.seconds / len(played.rows))
        self.rounds += 1
        self.drafted += int(rounds.drafted.sum())
        self.verified += int(rounds.verified.sum())
        self.accepted += int(rounds.accepted.sum())


def replay(
    tables: BatchTables,
    costs: BatchCosts,
    controller: BatchController,
    order: Sequence[int],
    rows: int,
    deciding: DecisionCosts | None = None,
) -> Totals:
    """Decode the texts in this order, up to `rows` at a time; a free row takes the next text.

    The replay ends when a row becomes free and no text is waiting, so that results are those of a
    full batch.
    """
    batch = BatchReplay(tables, costs, controller, rows, deciding=deciding)
    count = len(tables.trace.texts)
    totals = Totals(np.zeros(count), np.zeros(count))
    waiting = list(order)[::-1]
    for row in range(min(rows, len(waiting))):
        batch.admit(row, waiting.pop())
    while True:
        played = batch.step(len(waiting))
        totals.take(played)
        for row in played.ended:
            if not waiting:
                return totals
            batch.admit(row, waiting.pop())


def measure_deciding(
    tables: BatchTables,
    costs: BatchCosts,
    make: Callable[[int], BatchController],
    sizes: Sequence[int] = (1, 8, 64),
    rounds: int = 40,
    clock: Callable[[], float] = time.process_time,
) -> DecisionCosts:
    """Measure a controller's seconds here: the medians at `sizes` rows, and a line through them."""
    found: dict[bool, dict[int, float]] = {True: {}, False: {}}
    for size in sizes:
        batch = BatchReplay(tables, costs, make(size), size, clock=clock)
        for _ in range(rounds):
            for row in batch.free:
                batch.admit(row, (row + len(batch.spent)) % len(tables.trace.texts))
            batch.step()
        for looks, medians in found.items():
            spent = [seconds for _, asked, seconds in batch.spent if asked == looks]
            if spent:
                medians[size] = statistics.median(spent)

    def through(medians: dict[int, float]) -> tuple[float, float]:
        return line(list(medians), (0,), lambda _, size: medians[size]) if medians else (0.0, 0.0)

    return DecisionCosts(through(found[True]), through(found[False]))
