"""Which drafts of a batch pay, by what an outlook expects and what the parts of a round cost."""

import functools
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adaspec_rl.control.batching.outlook import Outlook
from adaspec_rl.control.batching.prices import Prices
from adaspec_rl.decoding.round import FALLBACK, Action

ALIKE = (0.1, 0.3, 0.5, 0.8)  # thresholds to choose from when rows draft alike
UNREAD = np.array(
    [0.0, *(2.0**n for n in range(-1, 13))]
)  # tokens a row at which reading is priced


@dataclass(frozen=True, slots=True)
class Here:
    """Seconds of the parts of a round, at a number of rows and about a context."""

    verifying: np.ndarray  # [rows * K + 1], by the number of verified tokens
    prices: "array[float]"  # the same
    once: np.ndarray  # [D] of a drafter's pass
    each: np.ndarray  # [D] of each row in it
    begins: np.ndarray  # [D] that a drafter adds to a round in which it drafts
    begun: np.ndarray  # [D] and for each row that uses it
    unread: np.ndarray  # [n] tokens that all rows together have to read
    reading: np.ndarray  # [D, n], seconds of a pass that reads them first
    level: float  # of the cheapest drafter's pass, for each row

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
        level = float((once / rows + each).min())
        return cls(
            verifying, array("d", verifying), once, each, begins, begun, unread, reading, level
        )

    @property
    def plain(self) -> float:
        """Of a round without drafts."""
        return float(self.verifying[0])

    def verified(self, tokens: int) -> float:
        """Of a round in which so many drafted tokens are verified."""
        return self.verifying.item(min(tokens, len(self.verifying) - 1))

    def drafted(self, drafter: int, lengths: Sequence[int], unread: float) -> float:
        """Of a drafter's drafts, of these lengths; its rows have `unread` tokens to read first."""
        d, reading = drafter, self.reading[drafter]
        passes = self.once.item(d) * max(lengths) + self.each.item(d) * sum(lengths)
        begin = self.begins.item(d) + self.begun.item(d) * len(lengths)
        return passes + begin + float(np.interp(unread, self.unread, reading)) - reading.item(0)

    @property
    def token(self) -> float:
        """Of the first verified token."""
        return float(self.verifying[1] - self.verifying[0])


@dataclass(frozen=True, slots=True)
class Rates:
    """What tokens and seconds are worth in this round."""

    rate: float  # tokens that a second of the batch is worth
    price: float  # the survival from which a drafted token is verified
    stop: float  # the survival from which a draft goes on
    verify: float = 1.0  # factors on the prices of a verified token,
    draft: float = 1.0  # of a drafted token,
    read: float = 1.0  # and of a token that a drafter has to catch up on


_action = functools.lru_cache(maxsize=4096)(Action)  # the same ones come again


@dataclass(frozen=True, slots=True)
class Plan:
    """The best drafts, each row by itself, and if all rows draft alike."""

    drafters: list[int]  # [n]
    lengths: list[int]  # [n]
    gain: float  # tokens that a round is worth more than one without drafts
    alike: Action
    gain_alike: float  # likewise; 0 if the rows draft nothing

    def actions(self, stop: float) -> list[Action]:
        """Each row's action."""
        return [
            _action(length, drafter, stop) if length else FALLBACK
            for drafter, length in zip(self.drafters, self.lengths)
        ]

    def drafting(self, rows: Sequence[int]) -> tuple[list[int], list[int]]:
        """Those of `rows` that draft, and their drafters."""
        used = [n for n, length in enumerate(self.lengths) if length]
        return [rows[n] for n in used], [self.drafters[n] for n in used]


def best_drafts(
    outlook: Outlook,
    observations: np.ndarray,
    unread: np.ndarray,
    here: Here,
    rates: Rates,
    alike: bool,
) -> Plan:
    """Find the drafts that are worth most, see `PlannedBatch`.

    Args:
        observations: `[n, F]` float32.
        unread: `[n, D]` float64, the tokens that each drafter has to catch up on.
        alike: whether to find the best plan in which all rows draft alike, too.
    """
    prices = [(rates.price, rates.stop)]
    if alike:
        prices += [(0.0, threshold) for threshold in ALIKE]
    found = outlook(observations, prices)  # [P, n, D, K] both
    worth, drafted = (values[0] for values in found)
    spent = rates.draft * rates.rate * here.each[:, None] * drafted
    debt = rates.read * rates.rate * catching_up(unread, here)
    value = np.cumsum(worth - spent, axis=2) - (debt + rates.rate * here.begun)[..., None]
    value = np.concatenate([np.zeros_like(value[..., :1]), value], axis=2)  # by length
    levels, starts = rates.draft * rates.rate * here.once, rates.rate * here.begins
    drafter, length, gain = choose(value, levels, starts)
    same, together = FALLBACK, 0.0
    if alike:
        gains, drafts = (values[1:].sum(axis=1) for values in found)
        same, together = best_alike(gains, drafts, len(observations), debt.sum(axis=0), here, rates)
    return Plan(drafter.tolist(), length.tolist(), gain, same, together)


def best_alike(
    worth: np.ndarray, drafted: np.ndarray, rows: int, debt: np.ndarray, here: Here, rates: Rates
) -> tuple[Action, float]:
    """The best action if all rows draft alike for a while, and what a round of it is worth.

    All rows draft as far as the same threshold lets each of them, up to the same length.

    Args:
        worth, drafted: `[T, D, K]`, what the outlook says at each threshold, over all rows.
        debt: `[D]`, the price of reading what each drafter has not read yet.
    """
    accepted, drafted = worth.cumsum(axis=2), drafted.cumsum(axis=2)
    verifying = rates.verify * (between(here.verifying, drafted) - here.plain)
    levels = here.once[:, None] * np.arange(1, worth.shape[2] + 1)
    drafting = rates.draft * (levels + here.each[:, None] * drafted)
    once = rates.rate * (here.begins + rows * here.begun) + debt
    value = accepted - rates.rate * (verifying + drafting) - once[:, None]
    threshold, drafter, depth = np.unravel_index(value.argmax(), value.shape)
    most = float(value[threshold, drafter, depth])
    if most <= 0:
        return FALLBACK, 0.0
    return Action(int(depth) + 1, int(drafter), ALIKE[threshold]), most


def catching_up(unread: np.ndarray, here: Here) -> np.ndarray:
    """Seconds `[n, D]` by which a drafter's first pass grows as rows join it.

    Rows with least to read join first: a pass has room for some tokens that take no extra time.
    """
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


def split(sizes: np.ndarray, seconds: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
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
    for d in np.argsort(-shared[:, 1], kind="stable"):
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
