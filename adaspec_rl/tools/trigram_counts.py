"""From a target's distributions over its own texts to a trigram table.

A distribution after two tokens is the mean of the target's distributions there, interpolated with
that after the last token alone, which is interpolated with the mean over all positions. This is a
hierarchy of Dirichlet priors (MacKay and Peto, 1995, doi:10.1017/S1351324900000218), with the
target's probabilities in place of counted tokens. Rows that differ least from the shorter context
are left out first (Stolcke 1998, arXiv:cs/0006025).
"""

from dataclasses import dataclass

import numpy as np

from adaspec_rl.decoding.trigrams import UNIT, TrigramTable

LONGEST = 24  # most candidates in a row
LEAST = 2e-3  # least probability of a candidate
ROW_BYTES, ENTRY_BYTES = 3, 3  # in the file, where token ids take two bytes
STRENGTH = 0.5  # weight of the shorter context, in counts


@dataclass(frozen=True, slots=True)
class Rows:
    """Candidates of `N` contexts: all entries, context by context."""

    contexts: np.ndarray  # [N] int64, ascending
    starts: np.ndarray  # [N + 1]
    tokens: np.ndarray  # [E] int64
    values: np.ndarray  # [E] float64

    @classmethod
    def summed(cls, contexts: np.ndarray, tokens: np.ndarray, values: np.ndarray) -> "Rows":
        """Rows from `[E]` entries in any order; entries of one context and token are added up."""
        order = np.lexsort((tokens, contexts))
        contexts, tokens, values = contexts[order], tokens[order], values[order]
        first = np.flatnonzero(_changes(contexts) | _changes(tokens))
        values = np.add.reduceat(values, first) if len(first) else values
        contexts, tokens = contexts[first], tokens[first]
        begins = np.flatnonzero(_changes(contexts))
        return cls(contexts[begins], np.append(begins, len(contexts)), tokens, values)

    @property
    def sizes(self) -> np.ndarray:
        return np.diff(self.starts)

    @property
    def of_entries(self) -> np.ndarray:
        """The number of each entry's row, `[E]`."""
        return np.repeat(np.arange(len(self.contexts)), self.sizes)

    @property
    def totals(self) -> np.ndarray:
        """The sum of each row, `[N]`."""
        return np.add.reduceat(self.values, self.starts[:-1])

    def select(self, rows: np.ndarray) -> "Rows":
        """These rows, in this order; a row may be chosen more than once."""
        sizes = self.sizes[rows]
        starts = np.append(0, sizes.cumsum())
        entries = np.arange(starts[-1]) + np.repeat(self.starts[rows] - starts[:-1], sizes)
        return Rows(self.contexts[rows], starts, self.tokens[entries], self.values[entries])

    def largest(self, most: int, least: float) -> "Rows":
        """The largest `most` entries of each row that reach `least`, descending; at least one."""
        row = self.of_entries
        order = np.lexsort((self.tokens, -self.values, row))
        place = np.arange(len(row)) - self.starts[row]
        kept = (place < most) & ((self.values[order] >= least) | (place == 0))
        sizes = np.bincount(row[kept], minlength=len(self.contexts))
        order = order[kept]
        starts = np.append(0, sizes.cumsum())
        return Rows(self.contexts, starts, self.tokens[order], self.values[order])


def _changes(values: np.ndarray) -> np.ndarray:
    """Where a value differs from the value before it; true for the first."""
    return np.append(True, values[1:] != values[:-1])


def interpolated(counts: Rows, lower: Rows, strength: float) -> Rows:
    """Distributions from counts and a prior that weighs as much as `strength` counts.

    `lower` has the prior's distribution of each row of `counts`, in the same order.
    """
    found = Rows.summed(
        np.concatenate([counts.of_entries, lower.of_entries]),
        np.concatenate([counts.tokens, lower.tokens]),
        np.concatenate([counts.values, strength * lower.values]),
    )
    values = found.values / np.repeat(counts.totals + strength, found.sizes)
    return Rows(counts.contexts, found.starts, found.tokens, values)


class TrigramCounts:
    """The target's distributions, added up by the two tokens before them."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._contexts: list[np.ndarray] = []
        self._tokens: list[np.ndarray] = []
        self._probs: list[np.ndarray] = []

    def add(self, before: np.ndarray, choices: np.ndarray, log_probs: np.ndarray) -> None:
        """Add `G` positions.

        Args:
            before: `[G, 2]`, the two tokens before each.
            choices: `[G, C]`, the target's likeliest tokens there.
            log_probs: `[G, C]`, in nats.
        """
        probs = np.exp(log_probs.astype(np.float64))
        kept = probs >= LEAST
        contexts = before[:, 1].astype(np.int64) * self.vocab_size + before[:, 0]
        self._contexts.append(np.repeat(contexts, kept.sum(axis=1)))
        self._tokens.append(choices[kept].astype(np.int64))
        self._probs.append(probs[kept])

    def table(
        self, vocabulary: str, repetition: np.ndarray, sharpness: float, *, size: int
    ) -> TrigramTable:
        """A table whose rows after two tokens take at most `size` bytes.

        `vocabulary`, `repetition` and `sharpness` are those of `TrigramTable`.
        """
        three = Rows.summed(*map(np.concatenate, (self._contexts, self._tokens, self._probs)))
        last = three.contexts // self.vocab_size
        two = Rows.summed(last[three.of_entries], three.tokens, three.values)
        one = Rows.summed(np.zeros_like(two.tokens), two.tokens, two.values)
        usual = interpolated(one, one, 0.0).largest(LONGEST, LEAST)
        lower = usual.select(np.zeros_like(two.contexts))
        after_one = interpolated(two, lower, STRENGTH).largest(LONGEST, LEAST)
        lower = after_one.select(after_one.contexts.searchsorted(last))
        after_two = interpolated(three, lower, STRENGTH)
        worth = three.totals * distances(after_two, lower)
        after_two = after_two.largest(LONGEST, LEAST)
        after_two = after_two.select(_within(size, worth, after_two.sizes))
        sizes = np.zeros(1 + self.vocab_size, dtype=np.int64)
        sizes[0], sizes[1 + after_one.contexts] = usual.sizes[0], after_one.sizes
        every = (usual, after_one, after_two)
        values = np.concatenate([rows.values for rows in every])
        narrow = np.uint16 if self.vocab_size <= 1 << 16 else np.uint32
        last, before = np.divmod(after_two.contexts, self.vocab_size)
        return TrigramTable(
            sizes=np.append(sizes, after_two.sizes).astype(np.uint8),
            tokens=np.concatenate([rows.tokens for rows in every]).astype(narrow),
            surprises=np.rint(-np.log(values) / UNIT).clip(0, 255).astype(np.uint8),
            counts=np.bincount(last, minlength=self.vocab_size).astype(narrow),
            before=before.astype(narrow),
            repetition=repetition.astype(np.float32),
            sharpness=np.array([sharpness], dtype=np.float32),
            vocabulary=vocabulary,
        )


def distances(one: Rows, other: Rows) -> np.ndarray:
    """Total variation between the distributions of each row, `[N]`."""
    found = Rows.summed(
        np.concatenate([one.of_entries, other.of_entries]),
        np.concatenate([one.tokens, other.tokens]),
        np.concatenate([one.values, -other.values]),
    )
    return np.add.reduceat(np.abs(found.values), found.starts[:-1]) / 2


def _within(size: int, worth: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The rows with the most worth per byte that fit into `size` bytes, in ascending order."""
    bytes_ = ROW_BYTES + ENTRY_BYTES * sizes
    best = (-worth / bytes_).argsort(kind="stable")
    return np.sort(best[: bytes_[best].cumsum().searchsorted(size, side="right")])
