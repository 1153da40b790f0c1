"""A guard that lets a batch speculate only while that pays."""

import statistics
from collections import defaultdict, deque
from collections.abc import Sequence

import numpy as np

from adaspec_rl.control.batch_controller import BatchController, Load
from adaspec_rl.control.batching.prices import Contexts, VerificationPrices
from adaspec_rl.control.checks import check_between
from adaspec_rl.decoding.round import FALLBACK, Action, Round

MEASURED = 4  # plain rounds that are played, all but the first one timed, before others are judged
REMEMBERED = 9  # timed plain rounds, whose median counts
REFRESH = 64  # rounds of the other controller after which plain ones are timed again


class GuardedBatch:
    """Plays another controller's actions while the batch gets ahead of plain decoding by them.

    The balance counts plain rounds. A round of `n` rows that the other controller decided and that
    emits `t` tokens earns `t / n` less its seconds over those of a plain round, whether it has
    drafts or not: looking and deciding take time as well. When the balance is spent, plain rounds
    follow, which nobody decides; each adds `allowance`, until the balance is `trial` again. So all
    that can be lost is `trial`, the loss of one round, and the share `allowance` of all rounds.

    What a plain round takes is measured: the cost model says how seconds grow with rows and tokens,
    and plain rounds of about as many rows correct it. All of it goes on from one decoder to the
    next.
    """

    def __init__(
        self,
        controller: BatchController,
        prices: VerificationPrices,
        *,
        trial: float = 4.0,
        limit: float = 16.0,
        allowance: float = 0.005,
    ) -> None:
        """`trial` plain rounds may be lost at first; no more than `limit` are saved up.

        Raises:
            ValueError: settings outside their range.
        """
        check_between("trial", trial, 0, limit)
        check_between("allowance", allowance, 0, 1)
        self._controller, self._prices = controller, prices
        self._trial, self._limit, self._allowance = trial, limit, allowance
        self._contexts = Contexts()
        self._balance = trial
        self._spent = False  # whether plain rounds are played until the balance is `trial`
        self._timing = MEASURED  # plain rounds to come, of which those after a plain one are timed
        self._plain, self._settled = True, False  # whether nobody decides this round, the last one
        # Seconds over predicted of timed plain rounds, by the power of 2 that the rows are near.
        self._timed: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self._latest = 1.0  # the median, of whichever rows were timed last
        self._since = 0  # rounds of the other controller since plain ones were timed
        self.name = f"guarded_{controller.name}"
        self.observes = controller.observes

    @property
    def looks(self) -> bool:
        """Not before plain rounds, which then take no time to decide."""
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
        return self._controller.decide(rows, observations, load)

    def allot(self, rows: Sequence[int], survivals: Sequence[np.ndarray]) -> list[int]:
        if self._plain:
            return [0] * len(rows)
        return self._controller.allot(rows, survivals)

    def observe(self, rows: Sequence[int], rounds: Sequence[Round], seconds: float) -> None:
        if self._plain:
            self._pass(rows, seconds)
        else:
            self._judge(rows, rounds, seconds)
        self._contexts.observe(rows, rounds)
        # Also where nobody decided: the texts have gone on, and controllers follow them.
        self._controller.observe(rows, rounds, seconds)
        if not self._spent and not self._timing and near(rows) not in self._timed:
            self._timing = MEASURED
        self._settled = self._plain
        self._plain = self._spent or self._timing > 0

    def _pass(self, rows: Sequence[int], seconds: float) -> None:
        """Take in a plain round. One after drafts is slower, and is not timed."""
        if self._timing:
            self._timing -= 1
            if self._settled:
                timed = self._timed[near(rows)]
                timed.append(seconds / self._predicted(rows))
                self._latest = statistics.median(timed)
        self._balance = min(self._balance + self._allowance, self._limit)
        self._spent = self._spent and self._balance < self._trial

    def _judge(self, rows: Sequence[int], rounds: Sequence[Round], seconds: float) -> None:
        """Take into the balance what a round of the other controller earned."""
        timed = self._timed.get(near(rows))
        plain = self._predicted(rows) * (statistics.median(timed) if timed else self._latest)
        tokens = sum(len(round_.tokens) for round_ in rounds)
        self._balance = min(self._balance + tokens / len(rows) - seconds / plain, self._limit)
        self._spent = self._balance <= 0
        self._since += 1
        if self._since == REFRESH:
            self._since, self._timing = 0, 2

    def _predicted(self, rows: Sequence[int]) -> float:
        """Seconds of a plain round, by the cost model."""
        count, context = np.array(float(len(rows))), np.array(self._contexts.mean(rows))
        return float(self._prices.verifying(count, np.array(0.0), context))


def near(rows: Sequence[int]) -> int:
    """Which of 1, 2 to 3, 4 to 7, … rows these are."""
    return len(rows).bit_length()
