"""A guard that lets a batch speculate only while that pays."""

import statistics
from collections import defaultdict, deque
from collections.abc import Sequence

import numpy as np

from adaspec_rl.control.batch_controller import BatchController, Load
from adaspec_rl.control.batching.prices import NEAR, VerificationPrices
from adaspec_rl.control.checks import check_between
from adaspec_rl.decoding.round import FALLBACK, Action, Round

MEASURED = 2  # plain rounds played before others are judged; the last one is timed
REMEMBERED = 3  # timed plain rounds that are kept; their median counts
DRIFT = 0.1  # a timed plain round that is this far from what was expected calls for another one
# Rounds of the other controller after which plain rounds are timed again: the first number after a
# drift, then twice as many each time, up to the second.
REFRESH = (128, 2048)
TRUSTED = 512  # such rounds before the first timing, if the controller is trusted
FRESH = 32  # such rounds within which a timing is not repeated when the balance is low
RETRY = 1.0  # the balance at which the other controller decides again


class GuardedBatch:
    """Plays another controller's actions while they keep the batch ahead of plain decoding.

    The balance is counted in plain rounds. A round of `n` rows that the other controller decided
    and that emits `t` tokens earns `t / n` minus its seconds over those of a plain round. This
    holds for rounds without drafts too, because looking and deciding take time. When the balance is
    spent, plain rounds follow, which nobody decides; each adds `allowance`, until the balance is
    back at `RETRY`. So the most that can be lost is what the balance begins with, the loss of one
    round, and the share `allowance` of all rounds.

    The time of a plain round is measured: the cost model says how seconds grow with rows and
    tokens, and timed plain rounds of about as many rows correct it. Machines drift, so the timing
    is repeated, more often after a change, and before a low balance is spent. If the controller is
    trusted, so is the cost model at first: plain rounds are timed once the balance is below
    `trial`, or after `TRUSTED` rounds.
    If the cost model takes plain rounds to be slower than they are, these rounds may lose more than
    the balance. All of this persists from one decoder to the next.
    """

    def __init__(
        self,
        controller: BatchController,
        prices: VerificationPrices,
        *,
        trial: float = 4.0,
        trust: float = 16.0,
        limit: float = 64.0,
        allowance: float = 0.005,
        trusted: bool = False,
    ) -> None:
        """`trial` plain rounds may be lost at first, `trust` if the controller is known to pay.

        At most `limit` are saved up. Drafts win much in some rounds and lose a little in many, so a
        controller that pays may lose dozens of plain rounds on the way.

        Raises:
            ValueError: a setting is outside its range.
        """
        check_between("trial", trial, 0, limit)
        check_between("trust", trust, 0, limit)
        check_between("allowance", allowance, 0, 1)
        self._controller, self._prices = controller, prices
        self._trial, self._limit, self._allowance = trial, limit, allowance
        self._context = 0.0  # tokens in a row, on average
        self._predictions: dict[tuple[int, int], float] = {}
        self._balance, self._trusted = trust if trusted else trial, trusted
        self._spent = False  # whether plain rounds are played until the balance is `RETRY`
        # Plain rounds to come; those that follow a plain round are timed.
        self._timing = 0 if trusted else MEASURED
        self._plain = self._timing > 0  # whether nobody decides this round
        self._settled = False  # whether the last round was plain
        self._idle = False  # whether the controller drafts nothing
        # Measured over predicted seconds of plain rounds, by the power of 2 that the rows are near.
        self._timed: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self._medians: dict[int, float] = {}  # of these
        self._latest = 1.0  # the median for the number of rows that was timed last
        self._since = 0  # rounds of the other controller since plain rounds were timed
        self._refresh = TRUSTED if trusted else REFRESH[0]
        self.name = f"guarded_{controller.name}"
        self.observes = controller.observes

    @property
    def looks(self) -> bool:
        """Not before plain rounds, so that these take no time to decide."""
        return not self._plain and self._controller.looks

    @property
    def allots(self) -> bool:
        """As the other controller says, but not in plain rounds."""
        return not self._plain and self._controller.allots

    def reset(self, rows: int) -> None:
        self._controller.reset(rows)

    def admit(self, row: int, prompt: Sequence[int], seed: int) -> None:
        self._controller.admit(row, prompt, seed)

    def decide(
        self, rows: Sequence[int], observations: np.ndarray | None, load: Load
    ) -> list[Action]:
        self._context = load.context
        if self._plain:
            return [FALLBACK] * len(rows)
        actions = self._controller.decide(rows, observations, load)
        self._idle = not actions[0].length and actions.count(actions[0]) == len(actions)
        return actions

    def allot(self, rows: Sequence[int], survivals: Sequence[Sequence[float]]) -> list[int]:
        if self._plain:
            return [0] * len(rows)
        return self._controller.allot(rows, survivals)

    def observe(self, rows: Sequence[int], rounds: Sequence[Round], seconds: float) -> None:
        if self._plain:
            self._pass(rows, seconds)
        else:
            tokens = len(rows) if self._idle else sum(len(round_.tokens) for round_ in rounds)
            self._judge(rows, tokens, seconds)
        # Also in rounds that nobody decided: the texts have grown, and controllers follow them.
        self._controller.observe(rows, rounds, seconds)
        if not self._spent and not self._timing and self._doubtful(near(rows) in self._medians):
            self._since, self._timing = 0, MEASURED
        self._settled = self._plain
        self._plain = self._spent or self._timing > 0

    def _doubtful(self, timed: bool) -> bool:
        """Whether plain rounds should be timed now, if they were `timed` before or not."""
        low = self._balance < self._trial
        return (low and self._since >= FRESH) if timed else (low or not self._trusted)

    def _pass(self, rows: Sequence[int], seconds: float) -> None:
        """Count a plain round. One right after drafts is slower, and is not timed."""
        self._timing = max(0, self._timing - 1)
        if self._settled:
            timed, expected = self._timed[near(rows)], self._medians.get(near(rows), self._latest)
            timed.append(seconds / self._predicted(rows))
            self._latest = self._medians[near(rows)] = statistics.median(timed)
            if abs(timed[-1] / expected - 1) > DRIFT:
                self._timing, self._refresh = max(1, self._timing), REFRESH[0]
        self._balance = min(self._balance + self._allowance, self._limit)
        self._spent = self._spent and self._balance < RETRY

    def _judge(self, rows: Sequence[int], tokens: int, seconds: float) -> None:
        """Add to the balance what a round of the other controller earned."""
        plain = self._predicted(rows) * self._medians.get(near(rows), self._latest)
        self._balance = min(self._balance + tokens / len(rows) - seconds / plain, self._limit)
        self._spent = self._balance <= 0
        self._since += 1
        if self._since >= self._refresh:
            self._since, self._timing = 0, 2
            self._refresh = min(2 * self._refresh, REFRESH[1])

    def _predicted(self, rows: Sequence[int]) -> float:
        """Seconds of a plain round, according to the cost model."""
        key = len(rows), int(self._context / NEAR)
        if key not in self._predictions:
            count, context = np.array(float(key[0])), np.array((key[1] + 0.5) * NEAR)
            seconds = float(self._prices.verifying(count, np.array(0.0), context))
            self._predictions[key] = seconds
        return self._predictions[key]


def near(rows: Sequence[int]) -> int:
    """The class of the number of rows: 1, 2 to 3, 4 to 7, and so on."""
    return len(rows).bit_length()
