"""What a language model says on average after two given tokens, as short lists.

The token that followed the last match in the current text is mixed in (a cache, Kuhn and De Mori
1990, doi:10.1109/34.56193), with more weight for longer matches. A table takes a few megabytes.
"""

import hashlib
import math
from array import array
from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from adaspec_rl.decoding.compiled_automaton import TextEnd
from adaspec_rl.files import write_atomically

UNIT = 1 / 16  # nats: surprises are stored as multiples of it, a byte each
NONE = -1  # in place of a token, where the text has only one
_ARRAYS = ("before", "counts", "repetition", "sharpness", "sizes", "surprises", "tokens")
_REAL = ("repetition", "sharpness")


@dataclass(frozen=True, slots=True)
class Candidates:
    """The tokens that may come next, the most probable first; all others have no chance."""

    tokens: np.ndarray  # [C] unsigned integers, C >= 1
    log_probs: np.ndarray  # [C] float32, nats, up to a constant

    @property
    def entropy(self) -> float:
        """In nats."""
        weights = np.exp(self.log_probs - self.log_probs[0])
        total = float(weights.sum())
        mean = float(weights @ self.log_probs) / total
        return math.log(total) + float(self.log_probs[0]) - mean

    def mixed(self, token: int, weight: float) -> "Candidates":
        """Mix with a point mass of `weight` on `token`; the probabilities must sum to 1."""
        tokens, probs = self.tokens, np.exp(self.log_probs) * np.float32(1 - weight)
        known = tokens == token
        if known.any():
            probs[known] += np.float32(weight)
        else:
            tokens = np.append(tokens, tokens.dtype.type(token))
            probs = np.append(probs, np.float32(weight))
        order = (-probs).argsort(kind="stable")
        return Candidates(tokens[order], np.log(probs[order]))


class TrigramTable:
    """Candidates after the last two tokens, else after the last one, else after any text.

    Row 0 is for any text. Row `1 + b` is for texts that end with token `b`, and may be empty. The
    other `T` rows are for texts that end with `a, b`, in ascending order of `(b, a)`.
    """

    def __init__(
        self,
        *,
        sizes: np.ndarray,
        tokens: np.ndarray,
        surprises: np.ndarray,
        counts: np.ndarray,
        before: np.ndarray,
        repetition: np.ndarray,
        sharpness: np.ndarray,
        vocabulary: str,
    ) -> None:
        """A table of `E` candidates, over a vocabulary of `V` tokens.

        Args:
            sizes: `[1 + V + T]` uint8, the number of candidates in each row.
            tokens: `[E]` unsigned integers, the candidates of all rows, row by row.
            surprises: `[E]` uint8, their negative log-probabilities in `UNIT`, ascending in a row.
            counts: `[V]` unsigned integers, for each `b` the number of rows `a, b`.
            before: `[T]` unsigned integers, `a` of each of these rows.
            repetition: `[R]` float32, the weight of the token that followed the last match, for a
                match of 1, 2, ... `R` or more tokens.
            sharpness: `[1]` float32, the exponent applied to probabilities: the mean of many
                distributions is flatter than each of them.
            vocabulary: a hash of what its tokens stand for.

        Raises:
            ValueError: the arrays do not fit together.
        """
        self.vocabulary = vocabulary
        self.arrays = {
            "before": before,
            "counts": counts,
            "repetition": repetition,
            "sharpness": sharpness,
            "sizes": sizes,
            "surprises": surprises,
            "tokens": tokens,
        }
        self.vocab_size = len(counts)
        starts, spans = _ends(sizes), _ends(counts)
        if not self._fits(starts, spans):
            shapes = {name: list(values.shape) for name, values in self.arrays.items()}
            raise ValueError(f"the arrays of the table do not fit together: {shapes}")
        self._starts, self._spans = array("Q", starts.tolist()), array("Q", spans.tolist())
        self._before, self._tokens = array("I", before.tolist()), tokens
        self._log_probs = _normalised(sizes, starts, surprises)
        self._repetition, self._sharpness = repetition.tolist(), sharpness[0]

    def _fits(self, starts: np.ndarray, spans: np.ndarray) -> bool:
        arrays, vocab_size = self.arrays, self.vocab_size
        before, sizes, tokens = arrays["before"], arrays["sizes"], arrays["tokens"]
        rows = 1 + vocab_size
        return bool(
            all(values.ndim == 1 for values in arrays.values())
            and all(arrays[name].dtype.kind == "u" for name in _ARRAYS if name not in _REAL)
            and all(arrays[name].dtype == np.float32 for name in _REAL)
            and ((arrays["repetition"] >= 0) & (arrays["repetition"] < 1)).all()
            and len(arrays["sharpness"]) == 1
            and 0 < arrays["sharpness"][0] < 100
            and len(sizes) == rows + len(before)
            and spans[-1] == len(before)
            and starts[-1] == len(tokens) == len(arrays["surprises"])
            and sizes[0]
            and sizes[rows:].all()
            and tokens.max() < vocab_size
            and before.max(initial=0) < vocab_size
            and all((np.diff(before[a:b].astype(np.int64)) > 0).all() for a, b in pairwise(spans))
        )

    def after(self, previous: int, last: int, suffix: TextEnd) -> Candidates:
        """The candidates after `previous, last`; `previous` is `NONE` if `last` is the first token.

        `suffix` is the text's end, up to and including `last`.
        """
        found = self.usual(previous, last)
        if suffix.guess is not None and self._repetition:
            weight = self._repetition[min(suffix.match, len(self._repetition)) - 1]
            if weight:
                found = found.mixed(suffix.guess, weight)
        return Candidates(found.tokens, found.log_probs * self._sharpness)

    def usual(self, previous: int, last: int) -> Candidates:
        """`after` without earlier occurrences in the text, and not sharpened.

        The probabilities sum to 1.
        """
        row = 0
        if last < self.vocab_size:
            first, end = self._spans[last], self._spans[last + 1]
            place = bisect_left(self._before, previous, first, end)
            if place < end and self._before[place] == previous:
                row = 1 + self.vocab_size + place
            elif self._starts[1 + last] < self._starts[2 + last]:
                row = 1 + last
        part = slice(self._starts[row], self._starts[row + 1])
        return Candidates(self._tokens[part], self._log_probs[part])

    def flat(self) -> tuple[np.ndarray, ...]:
        """Arrays for compiled code: starts, spans, before, tokens, log-probabilities, repetition.

        The first two are uint64, the next two uint32, the last two float32.
        """
        return (
            np.array(self._starts),
            np.array(self._spans),
            np.array(self._before, dtype=np.uint32),
            self._tokens.astype(np.uint32),
            self._log_probs,
            np.ascontiguousarray(self.arrays["repetition"]),
        )

    @property
    def rows(self) -> int:
        """Pairs of tokens that have candidates of their own."""
        return len(self._before)

    @property
    def fingerprint(self) -> str:
        """A short hash of the table's contents."""
        digest = hashlib.sha256(self.vocabulary.encode())
        for name in _ARRAYS:
            values = self.arrays[name]
            digest.update(f"{name} {values.dtype} {len(values)}".encode())
            digest.update(values.tobytes())
        return digest.hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Write it as a safetensors file."""
        arrays = {name: np.ascontiguousarray(self.arrays[name]) for name in _ARRAYS}
        write_atomically(path, save(arrays, {"vocabulary": self.vocabulary}))

    @classmethod
    def load(cls, path: Path) -> "TrigramTable":
        """Read a table from a file.

        Raises:
            ValueError: there is no such file, or it holds no table.
        """
        if not path.is_file():
            raise ValueError(f"there is no table {path}: build one with adaspec_rl.tools.table")
        try:
            with safe_open(path, framework="numpy") as file:
                vocabulary = (file.metadata() or {}).get("vocabulary", "")
                arrays = {name: file.get_tensor(name) for name in _ARRAYS}
            return cls(vocabulary=vocabulary, **arrays)
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f"{path} holds no trigram table ({error}): build it anew") from None


def _ends(counts: np.ndarray) -> np.ndarray:
    """Where each part begins, and the last one ends."""
    return np.append(0, np.cumsum(counts, dtype=np.int64))


def _normalised(sizes: np.ndarray, starts: np.ndarray, surprises: np.ndarray) -> np.ndarray:
    """Log-probabilities `[E]` float32; the probabilities of each row sum to 1."""
    filled = np.flatnonzero(sizes)
    weights = np.exp(-UNIT * surprises.astype(np.float64))
    totals = np.add.reduceat(weights, starts[filled])
    return np.log(weights / np.repeat(totals, sizes[filled])).astype(np.float32)
