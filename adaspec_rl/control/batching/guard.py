"""A guard that lets a batch speculate only while that pays."""

import math
import statistics
from collections import deque
from collections.abc import Sequence

import numpy as np

from adaspec_rl.control.batch_controller import BatchController, Load
from adaspec_rl.control.batching.prices import Contexts, Prices
from adaspec_rl.control.checks import check_between
from adaspec_rl.decoding.round import FALLBACK, Action, Round

MEASURED = 3  # plain rounds that a fresh guard takes
ALLOWANCE = 0.01  # plain rounds that may be lost for each that is played, in the long run
REMEMBERED = 5  # plain rounds, of which the median or, if it was quicker, the last one counts
REFRESH = 64  # rounds with drafts after which a plain one is measured


class GuardedBatch:
    """Plays another controller's actions while the batch gets ahead of plain decoding by them.

    The balance counts plain rounds: a round of `n` rows that emits `t` tokens earns `t / n` less
    its seconds over those of a plain round of as many rows, which the cost model predicts and the
    plain rounds that are played correct. When the balance falls under 0, `shortest` plain rounds
    follow, twice as many each time this happens again without a full balance in between; and never
    fewer than make good at 1% what was lost. So the batch is never behind plain decoding by more
    than `advance` rounds, one round, and 1%.
    All of it goes on from one decoder to the next; at first three plain rounds are measured.
    """

    def __init__(
        self,
        controller: BatchController,
        prices: Prices,
        *,
        advance: float = 8.0,
        limit: float = 16.0,
        shortest: int = 16,
        longest: int = 1024,
    ) -> None:
        """`advance` plain rounds may be lost at first; no more than `limit` are saved up.

        Raises:
            ValueError: settings outside their range.
        """
        check_between("advance", advance, 0, limit)
        check_between("shortest", shortest, 1, longest)
        self._controller, self._prices = controller, prices
        self._limit = limit
        self._shortest, self._longest = shortest, longest
        self._contexts = Contexts()
        self._balance = advance
        self._measured: deque[float] = deque(maxlen=REMEMBERED)  # over predicted, of plain rounds
        self._since = 0  # rounds with drafts since a plain one
        self._interval, self._plain = shortest, MEASURED  # plain rounds to come
        self._drafts = False  # whether the other controller has some row draft in this round
        self.name = f"guarded_{controller.name}"
        self.observes = controller.observes

    @property
    def looks(self) -> bool:
        """Not during plain rounds, which then take no time to decide."""
        return not self._plain and self._controller.looks

    @property
    def allots(self) -> bool:
        """As the other controller, but for plain rounds."""
        return not self._plain and self._controller.allots

    def reset(self, rows: int) -> None:
        self._controller.reset(rows)
        self._contexts.reset()

    def admit(self, row: int, prompt: Sequence[int], seed: int) -> None:
        self._controller.admit(row, prompt, seed)
        self._contexts.admit(row, prompt)

    def decide(
        self, rows: Sequence[int], observations: np.ndarray | None, load: Load
    ) -> list[Action]:
        if self._plain:
            return [FALLBACK] * len(rows)
        actions = self._controller.decide(rows, observations, load)
        self._drafts = any(action.length for action in actions)
        return actions

    def allot(self, rows: Sequence[int], survivals: Sequence[np.ndarray]) -> list[int]:
        if self._plain:
            return [0] * len(rows)
        return self._controller.allot(rows, survivals)

    def observe(self, rows: Sequence[int], rounds: Sequence[Round], seconds: float) -> None:
        count, context = np.array(float(len(rows))), np.array(self._contexts.mean(rows))
        predicted = float(self._prices.verifying(count, np.array(0.0), context))
        self._contexts.observe(rows, rounds)
        # Also where the guard overrode it: the texts have gone on, and controllers follow them.
        self._controller.observe(rows, rounds, seconds)
        if self._plain or not self._drafts:
            self._plain = max(0, self._plain - 1)
            self._measured.append(seconds / predicted)
            self._since = 0
            return
        self._since += 1
        if self._since == REFRESH:
            self._plain = 1
        tokens = sum(len(round_.tokens) for round_ in rounds)
        plain = predicted * min(statistics.median(self._measured), self._measured[-1])
        gain = tokens / len(rows) - seconds / plain
        self._balance = min(self._balance + gain, self._limit)
        if self._balance == self._limit:
            self._interval = self._shortest
        if self._balance < 0:
            owed = math.ceil(-self._balance / ALLOWANCE)
            self._plain, self._balance = max(self._interval, owed), 0.0
            self._interval = min(2 * self._interval, self._longest)
