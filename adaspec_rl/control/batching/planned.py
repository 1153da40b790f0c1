"""The learned batch policy: rows draft what is expected to pay at the batch's prices."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adaspec_rl.control.batch_controller import Load
from adaspec_rl.control.batching.allotment import padded, ranked, top
from adaspec_rl.control.batching.outlook import Outlook
from adaspec_rl.control.batching.prices import Prices
from adaspec_rl.control.batching.rule import BatchRule
from adaspec_rl.decoding.round import FALLBACK, Action, Round

SPAN = 32.0  # rounds over which throughput is averaged
HOPE = 1.2  # times plain throughput, where the average begins
CERTAIN = 0.98  # no price is higher
LONGEST = 64  # the most rounds without a look
ALIKE = (0.1, 0.3, 0.5, 0.8)  # thresholds to choose from when rows draft alike
NEAR = 32.0  # tokens of context within which prices are the same
UNREAD = np.array(
    [0.0, *(2.0**n for n in range(-1, 13))]
)  # tokens a row at which reading is priced


@dataclass(frozen=True, slots=True)
class Here:
    """Seconds of the parts of a round, at a number of rows and about a context."""

    verifying: np.ndarray  # [rows * K + 1], by the number of verified tokens
    once: np.ndarray  # [D] of a drafter's pass
    each: np.ndarray  # [D] of each row in it
    begins: np.ndarray  # [D] that a drafter adds to a round in which it drafts
    begun: np.ndarray  # [D] and for each row that uses it
    unread: np.ndarray  # [n] tokens that all rows together have to read
    reading: np.ndarray  # [D, n], seconds of a pass that reads them first

    @classmethod
    def of(cls, prices: Prices, rows: int, context: float, drafters: int, depth: int) -> "Here":
        """Ask `prices` for everything."""
        count, at = np.array(float(rows)), np.array(context)
        sizes, unread = np.array([1.0, max(rows, 2.0)]), rows * UNREAD
        every = range(drafters)
        once, each = split(sizes, [prices.drafting(d, sizes, at, 0.0, True) for d in every])
        begins, begun = split(sizes, [prices.beginning(d, sizes) for d in every])
        reading = np.array([prices.drafting(d, count, at, unread) for d in every])
        verifying = prices.verifying(count, np.arange(rows * depth + 1.0), at)
        return cls(verifying, once, each, begins, begun, unread, reading)

    @property
    def plain(self) -> float:
        """Of a round without drafts."""
        return float(self.verifying[0])

    def token(self, usual: float) -> float:
        """Of one more verified token, where `usual` tokens are verified."""
        at = min(int(usual), len(self.verifying) - 2)
        return float(self.verifying[at + 1] - self.verifying[at])


class PlannedBatch(BatchRule):
    """Plans every row's draft by its expected worth, then verifies by price.

    A second of the batch is worth its throughput, a running average. At that rate, the cost model
    gives the prices of one more verified token and one more drafted token. An `Outlook`, learned
    from recordings, predicts what each row's next draft gains at these prices. Each row drafts as
    far as that pays, and the batch drafts no deeper than pays for the passes that all rows share.
    Of the drafted tokens, the likeliest are verified, as in `VerificationBudget`, as long as they
    are worth their seconds.

    Looking takes time as well. For `hold` rounds after a look, every row therefore keeps its
    action, and all that is drafted is verified. Each look also finds the best plan in which all
    rows draft alike, under one threshold up to one length. If the look gained less over that plan
    than it cost, the policy rests: rows follow the plan. A rest lasts one round at first and twice
    as long each next time, until the number of rows changes a lot.

    `verify`, `draft` and `read` are factors on the prices of a verified token, of a drafted token
    and of a token that a drafter has to catch up on first: 1 is what the cost model says.
    """

    name = "planned"

    def __init__(
        self,
        outlook: Outlook,
        prices: Prices,
        *,
        verify: float = 1.0,
        draft: float = 1.0,
        read: float = 1.0,
        hold: int = 0,
        longest: int = LONGEST,
    ) -> None:
        """A rest lasts at most `longest` rounds; 0: the policy never rests."""
        self._hold, self._longest = hold, longest
        self._outlook, self._prices = outlook, prices
        self.observes = outlook.spec
        self.verify, self.draft, self.read = verify, draft, read
        self._asked = functools.lru_cache(maxsize=64)(self._ask)  # the same prices come again
        self.reset(1)

    def reset(self, rows: int) -> None:
        self._tokens = self._seconds = self._verified = 0.0  # decaying sums
        self._weight = 0.0
        self._unread = np.zeros((rows, self._outlook.spec.drafters))
        self._drafting: tuple[list[int], list[int]] = ([], [])  # rows and their drafters
        self._rest = self._resting = self._coming = self._size = 0
        self._same = FALLBACK
        self._held: dict[int, Action] = {}  # by row, while it keeps the action of a look

    @property
    def looks(self) -> bool:  # type: ignore[override]
        """Not while the policy rests or rows keep their actions."""
        return not self._resting

    @property
    def allots(self) -> bool:  # type: ignore[override]
        """Only if something was drafted after a look."""
        return bool(self._drafting[0]) and not self._resting

    def admit(self, row: int, prompt: Sequence[int], seed: int) -> None:
        self._unread[row] = len(prompt)
        self._held.pop(row, None)

    def decide(
        self, rows: Sequence[int], observations: np.ndarray | None, load: Load
    ) -> list[Action]:
        if self._resting:
            return self._without_a_look(rows)
        assert observations is not None, "a learned policy needs its observations"
        self._size = len(rows).bit_length()
        count = len(rows)
        here = self._now = self._asked(count, int(load.context / NEAR))
        self._rate = (self._tokens + HOPE * count) / (self._seconds + here.plain)
        usual = count * self._verified / max(self._weight, 1.0)
        price = min(max(self.verify * self._rate * here.token(usual), 0.0), CERTAIN)
        level = float((here.once / count + here.each).min())
        stop = min(price + self.draft * self._rate * level, CERTAIN)
        prices = [(price, stop)]
        if self._longest:
            prices += [(0.0, threshold) for threshold in ALIKE]
        found = self._outlook(observations, prices)  # [P, n, D, K] both
        worth, drafted = (values[0] for values in found)
        spent = self.draft * self._rate * here.each[:, None] * drafted
        debt = self.read * self._rate * self._catching_up(rows, here)
        value = np.cumsum(worth - spent, axis=2) - (debt + self._rate * here.begun)[..., None]
        value = np.concatenate([np.zeros_like(value[..., :1]), value], axis=2)  # by length
        levels, starts = self.draft * self._rate * here.once, self._rate * here.begins
        drafter, length, gain = choose(value, levels, starts)
        known = {
            (d, k): Action(k, d, stop) if k else FALLBACK
            for d, k in set(zip(drafter.tolist(), length.tolist()))
        }
        self._held, self._coming = {}, 0
        if self._longest:
            gains, drafts = (values[1:].sum(axis=1) for values in found)
            self._same, together = self._best_alike(gains, drafts, count, debt.sum(axis=0), here)
            more = (1 + self._hold) * (gain - together)
            pays = more > self._rate * self._prices.deciding(len(rows))
            self._rest = 0 if pays else min(max(1, 2 * self._rest), self._longest)
            self._coming = self._rest  # rounds of rest, starting with the next one
            if together > gain:
                return self._without_a_look(rows)
        used = length > 0
        self._drafting = (np.array(rows)[used].tolist(), drafter[used].tolist())
        actions = [known[pair] for pair in zip(drafter.tolist(), length.tolist())]
        if self._hold and not self._coming:
            self._held, self._coming = dict(zip(rows, actions)), self._hold
        return actions

    def _best_alike(
        self, worth: np.ndarray, drafted: np.ndarray, rows: int, debt: np.ndarray, here: Here
    ) -> tuple[Action, float]:
        """The best action if all rows draft alike for a while, and what a round of it is worth.

        All rows draft as far as the same threshold lets each of them, up to the same length.

        Args:
            worth, drafted: `[T, D, K]`, what the outlook says at each threshold, over all rows.
            debt: `[D]`, the price of reading what each drafter has not read yet.
        """
        accepted, drafted = worth.cumsum(axis=2), drafted.cumsum(axis=2)
        verifying = self.verify * (between(here.verifying, drafted) - here.plain)
        levels = here.once[:, None] * np.arange(1, self._outlook.depth + 1)
        drafting = self.draft * (levels + here.each[:, None] * drafted)
        once = self._rate * (here.begins + rows * here.begun) + debt
        value = accepted - self._rate * (verifying + drafting) - once[:, None]
        threshold, drafter, depth = np.unravel_index(value.argmax(), value.shape)
        most = float(value[threshold, drafter, depth])
        if most <= 0:
            return FALLBACK, 0.0
        return Action(int(depth) + 1, int(drafter), ALIKE[threshold]), most

    def _without_a_look(self, rows: Sequence[int]) -> list[Action]:
        """The action that a row keeps, or else that of the plan in which all draft alike."""
        if not self._held:
            used = list(rows) if self._same.length else []
            self._drafting = (used, [self._same.drafter] * len(used))
            return [self._same] * len(rows)
        actions = [self._held.get(row, self._same) for row in rows]
        drafts = [(row, action.drafter) for row, action in zip(rows, actions) if action.length]
        self._drafting = [row for row, _ in drafts], [drafter for _, drafter in drafts]
        return actions

    def allot(self, rows: Sequence[int], survivals: Sequence[np.ndarray]) -> list[int]:
        offered = padded(survivals)
        chances = ranked(offered)
        seconds = self._now.verifying[: len(chances) + 1]
        worth = np.concatenate([[0.0], np.cumsum(chances)]) - self.verify * self._rate * seconds
        return top(offered, int(worth.argmax())).tolist()

    def observe(self, rows: Sequence[int], rounds: Sequence[Round], seconds: float) -> None:
        self._resting = max(0, self._resting - 1) + self._coming
        self._coming = 0
        if len(rows).bit_length() != self._size:
            self._rest = self._resting = 0
        emitted = [len(round_.tokens) for round_ in rounds]
        self._unread[list(rows)] += np.array(emitted)[:, None]
        self._unread[self._drafting] = 0.0
        self._drafting = ([], [])
        keep = 1.0 - 1.0 / SPAN
        self._tokens = keep * self._tokens + sum(emitted)
        self._seconds = keep * self._seconds + seconds
        verified = sum(round_.drafted for round_ in rounds) / len(rounds)
        self._verified = keep * self._verified + verified
        self._weight = keep * self._weight + 1.0

    def _ask(self, rows: int, near: int) -> Here:
        spec, depth = self._outlook.spec, self._outlook.depth
        return Here.of(self._prices, rows, (near + 0.5) * NEAR, spec.drafters, depth)

    def _catching_up(self, rows: Sequence[int], here: Here) -> np.ndarray:
        """Seconds `[n, D]` by which a drafter's first pass grows as rows join it.

        Rows with least to read join first: a pass has room for some tokens that take no extra time.
        """
        unread = self._unread[list(rows)]
        found = np.zeros_like(unread)
        for d in np.flatnonzero(here.reading[:, -1] > here.reading[:, 0]):
            order = unread[:, d].argsort(kind="stable")
            read = np.concatenate([[0.0], unread[order, d].cumsum()])
            found[order, d] = np.diff(np.interp(read, here.unread, here.reading[d]))
        return found


def between(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Linear interpolation of `values` `[N]`, those of 0, 1, …, at points from 0 to `N - 1`."""
    below = np.minimum(at.astype(np.int64), len(values) - 2)
    lower = values[below]
    return lower + (at - below) * (values[below + 1] - lower)


def split(sizes: np.ndarray, seconds: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Split seconds at two sizes, `[2]` each, into a fixed part and a part per row, `[D]` both."""
    ends = np.array(seconds)
    each = np.maximum(ends[:, 1] - ends[:, 0], 0.0) / (sizes[1] - sizes[0])
    return np.maximum(ends[:, 0] - each, 0.0), each


def choose(
    value: np.ndarray, once: np.ndarray, begins: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Each row's drafter and length, `[n]` both, and the total worth of this choice.

    Args:
        value: `[n, D, K + 1]`, the worth to each row of every drafter and length; 0 for length 0.
        once: `[D]`, the cost of each level of a drafter, however many rows draft there.
        begins: `[D]`, the cost of a drafter once if any row drafts with it.
    """
    drafters, depths = value.shape[1:]
    shared = once[:, None] * np.arange(depths) + begins[:, None] * (np.arange(depths) > 0)
    best = np.maximum.accumulate(value, axis=2)
    caps = [depths - 1] * drafters
    for d in np.argsort(-shared[:, 1]):
        others = [best[:, o, caps[o]] for o in range(drafters) if o != d]
        without = np.maximum.reduce(others) if others else np.zeros(len(value))
        total = np.maximum(best[:, d], without[:, None]).sum(axis=0) - shared[d]
        caps[d] = int(total.argmax())
    allowed = value.copy()
    for d in range(drafters):
        allowed[:, d, caps[d] + 1 :] = -np.inf
    flat = allowed.reshape(len(value), -1)
    chosen = flat.argmax(axis=1)
    drafter, length = np.divmod(chosen, depths)
    deepest = [length[drafter == d].max(initial=0) for d in range(drafters)]
    spent = shared[range(drafters), deepest].sum()
    return drafter, length, float(flat[np.arange(len(flat)), chosen].sum() - spent)
