"""How far drafts survive, from other engines' counts, and predictions for other lengths."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from adaspec_rl.costs.profile import RoundCosts

DRAWS = 2000  # for an interval
ENOUGH = 8  # requests needed to resample them; with fewer, rounds count as independent
LEVEL = 95.0  # percent


@dataclass(frozen=True, slots=True)
class Counts:
    """The outcomes of the drafts of one request, or of a whole server.

    `complete` is False if it is known how many tokens were accepted but not how many each round
    drafted. Rounds with shorter drafts then look like rejections, and every rate is a lower bound.
    """

    name: str
    reached: np.ndarray  # [K] rounds whose verification reached drafted token 1, 2, …
    accepted: np.ndarray  # [K] of those, rounds in which it was kept
    rounds: int
    complete: bool = True
    # By round, if known, `[rounds]` each:
    drafted_by_round: np.ndarray | None = None
    accepted_by_round: np.ndarray | None = None

    def __post_init__(self) -> None:
        if (self.accepted > self.reached).any() or (self.accepted < 0).any():
            raise ValueError(
                f"{self.name} has {self.accepted.tolist()} drafted tokens accepted by depth of "
                f"{self.reached.tolist()} looked at: expected at most as many"
            )

    @property
    def depth(self) -> int:
        return len(self.reached)


def of_rounds(name: str, accepted: Sequence[int], drafted: Sequence[int]) -> Counts:
    """Counts from each round's accepted and drafted tokens.

    Raises:
        ValueError: the lengths differ, or a round accepted more than it drafted.
    """
    kept, made = np.asarray(accepted, dtype=np.int64), np.asarray(drafted, dtype=np.int64)
    if kept.shape != made.shape or kept.ndim != 1:
        raise ValueError(
            f"{name} has {kept.size} accepted and {made.size} drafted counts: expected one of each "
            "a round"
        )
    if (kept > made).any() or (kept < 0).any():
        raise ValueError(f"{name} has a round with more tokens accepted than drafted")
    depths = np.arange(int(made.max(initial=0)))[:, None]
    reached = ((made > depths) & (kept >= depths)).sum(axis=1)
    hits = (kept > depths).sum(axis=1)
    return Counts(name, reached, hits, len(kept), True, made, kept)


def of_histogram(name: str, histogram: Sequence[int], drafted: int | None) -> Counts:
    """Counts from the rounds that accepted 0, 1, … tokens, and the drafted tokens of all rounds.

    A histogram does not say how many tokens each round drafted. The counts are complete if
    `drafted` shows that all rounds drafted equally many; otherwise rates are lower bounds.
    """
    rounds = np.asarray(histogram, dtype=np.int64)
    if rounds.ndim != 1 or len(rounds) < 1 or (rounds < 0).any():
        raise ValueError(
            f"{name} has the histogram {list(histogram)!a:.60}: expected counts from 0"
        )
    at_least = rounds[::-1].cumsum()[::-1]  # rounds that accepted at least so many
    total = int(rounds.sum())
    complete = drafted is not None and drafted == total * (len(rounds) - 1)
    return Counts(name, at_least[:-1], at_least[1:], total, complete)


def of_positions(name: str, rounds: int, kept: Sequence[float], drafted: int | None) -> Counts:
    """Counts from how many of `rounds` kept drafted token 1, 2, …, and from all drafted tokens."""
    hits = np.asarray(kept, dtype=np.int64)
    reached = np.concatenate([[rounds], hits[:-1]])
    complete = drafted is not None and drafted == rounds * len(hits)
    return Counts(name, reached, hits, rounds, complete)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Fit:
    """The chance of each drafted token, given that all before it were accepted.

    Attributes:
        chances: `[K]`, pooled over requests.
        draws: `[DRAWS, K]`, samples of the chances within their uncertainty.
        measured: the deepest measured token; beyond it, the last chance is assumed.
    """

    chances: np.ndarray
    draws: np.ndarray
    measured: int
    complete: bool
    requests: int
    counts: tuple[Counts, ...] = field(repr=False)

    def accepted(self, length: int) -> Estimate:
        """The expected number of accepted tokens of a draft of `length`."""
        mean = _expected(self.chances[None], length)[0]
        return _estimate(mean, _expected(self.draws, length))

    def speedup(self, length: int, costs: RoundCosts) -> Estimate:
        """Throughput at a fixed length, relative to plain decoding."""
        seconds = costs.seconds(0, length) / costs.autoregressive_step
        mean = (1 + _expected(self.chances[None], length)[0]) / seconds
        return _estimate(mean, (1 + _expected(self.draws, length)) / seconds)


def fit(counts: Sequence[Counts], seed: int = 0) -> Fit:
    """Pool requests' counts.

    Raises:
        ValueError: nothing was drafted.
    """
    depth = max((item.depth for item in counts), default=0)
    reached = np.stack([_to(item.reached, depth) for item in counts]) if depth else np.zeros((0, 0))
    if not reached.sum():
        raise ValueError("nothing was drafted: expected counts of rounds with drafts")
    kept = np.stack([_to(item.accepted, depth) for item in counts])
    measured = int((reached.sum(axis=0) > 0).sum())
    reached, kept = reached[:, :measured], kept[:, :measured]
    rng = np.random.default_rng(seed)
    if len(counts) >= ENOUGH:
        chosen = rng.integers(len(counts), size=(DRAWS, len(counts)))
        draws = _chance(kept[chosen].sum(axis=1), reached[chosen].sum(axis=1))
    else:
        hits, misses = kept.sum(axis=0), (reached - kept).sum(axis=0)
        draws = rng.beta(hits + 0.5, misses + 0.5, size=(DRAWS, measured))
    return Fit(
        chances=_chance(kept.sum(axis=0), reached.sum(axis=0)),
        draws=draws,
        measured=measured,
        complete=all(item.complete for item in counts),
        requests=len(counts),
        counts=tuple(counts),
    )


def by_position(counts: Sequence[Counts], edges: Sequence[int]) -> list[tuple[int, int, int]]:
    """`(from token, accepted first tokens, drafts)` for spans of the generated text.

    Only rounds that were reported one by one count.
    """
    found = np.zeros((2, len(edges)), dtype=np.int64)
    for item in counts:
        if item.drafted_by_round is None or item.accepted_by_round is None:
            continue
        made, kept = item.drafted_by_round, item.accepted_by_round
        before = np.concatenate([[0], (kept + 1).cumsum()[:-1]]) if len(kept) else kept
        span = np.searchsorted(edges, before, side="right") - 1
        np.add.at(found[0], span[made > 0], kept[made > 0] > 0)
        np.add.at(found[1], span[made > 0], 1)
    return [(int(edge), int(hit), int(all_)) for edge, hit, all_ in zip(edges, *found) if all_]


def request_chances(found: Fit, rng: np.random.Generator) -> np.ndarray:
    """A sample of each request's own chances `[requests, K]`, from its counts and all requests'.

    Adaptive policies gain from differences between requests. The size of these differences is
    estimated by the method of moments, for a beta distribution of the first token's chance.
    """
    depth = found.measured
    hits = np.stack([_to(item.accepted, depth) for item in found.counts])
    seen = np.stack([_to(item.reached, depth) for item in found.counts])
    weight = _concentration(hits[:, 0], seen[:, 0], float(found.chances[0]))
    mean = np.clip(found.chances, 1e-3, 1 - 1e-3)
    return rng.beta(mean * weight + hits, (1 - mean) * weight + seen - hits)


def _concentration(hits: np.ndarray, seen: np.ndarray, mean: float) -> float:
    """The weight of a request's prior, in rounds."""
    known = seen > 0
    if known.sum() < 2 or not 0 < mean < 1:
        return 1e3
    rates = hits[known] / seen[known]
    noise = mean * (1 - mean) * float(np.mean(1 / seen[known]))
    between = max(float(np.mean((rates - mean) ** 2)) - noise, 1e-6)
    return float(np.clip(mean * (1 - mean) / between - 1, 2.0, 1e3))


def _chance(hits: np.ndarray, seen: np.ndarray) -> np.ndarray:
    return (hits + 0.5) / (seen + 1.0)


def _to(values: np.ndarray, depth: int) -> np.ndarray:
    """`values`, padded with zeros or cut to `depth`."""
    return np.pad(values, (0, max(0, depth - len(values))))[:depth]


def _expected(chances: np.ndarray, length: int) -> np.ndarray:
    """Expected accepted tokens `[n]` of drafts of `length`, from chances `[n, K]`."""
    deeper = np.repeat(chances[:, -1:], max(0, length - chances.shape[1]), axis=1)
    every = np.concatenate([chances, deeper], axis=1)[:, :length]
    return every.cumprod(axis=1).sum(axis=1)


def _estimate(value: float, draws: np.ndarray) -> Estimate:
    low, high = np.percentile(draws, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return Estimate(float(value), float(low), float(high))
