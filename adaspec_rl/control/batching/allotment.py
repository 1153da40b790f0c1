"""Which drafted tokens of a batch are worth verifying."""

import ctypes
import functools
import itertools
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from adaspec_rl.engine.cpu.build import loaded


@dataclass(frozen=True, slots=True)
class Allotment:
    """The tokens to verify."""

    counts: list[int]  # of each row, the first ones of its draft
    price: float  # the survival that separates them from the others, see `marginal_price`


def likeliest(
    survivals: Sequence[Sequence[float]],
    seconds: "array[float]",
    *,
    before: float = 0.0,
    worth: float = 0.0,
) -> Allotment:
    """The most valuable budget of tokens: those most likely to survive, over all rows.

    Survival falls along a row, so the chosen tokens form prefixes. Of equal tokens, those of lower
    depth come first. The code is compiled if models of this process run compiled.

    Args:
        survivals: `[k]` of each row's draft.
        seconds: of verifying 0, 1, … tokens, "d"; at least one more than were drafted.
        before: seconds of the round before it verifies.
        worth: tokens that a second is worth; 0: the budget that gives the most tokens a second.
    """
    compiled = loaded()
    if compiled is None:
        return likeliest_in_arrays(survivals, seconds, before=before, worth=worth)
    # After a forward pass, caches are cold: NumPy's calls would take several times as long.
    lengths = array("q", map(len, survivals))
    chances = array("d", itertools.chain.from_iterable(survivals))
    assert len(seconds) > len(chances)
    places = (part.buffer_info()[0] for part in (lengths, chances, seconds))
    price = _compiled(compiled)(len(lengths), *places, len(seconds), before, worth)
    return Allotment(lengths.tolist(), price)


@functools.cache
def _compiled(library: ctypes.CDLL) -> Callable[..., float]:
    """`allot_tokens` of plan.cpp."""
    found = library.allot_tokens
    pointer, integer, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
    found.argtypes, found.restype = [integer, *[pointer] * 3, integer, real, real], real
    return found


def likeliest_in_arrays(
    survivals: Sequence[Sequence[float]],
    seconds: Sequence[float],
    *,
    before: float = 0.0,
    worth: float = 0.0,
) -> Allotment:
    """`likeliest` in NumPy."""
    offered = padded(survivals)
    chances = -np.sort(-offered[offered > 0])
    all_seconds = np.asarray(seconds)
    tokens, spent = np.concatenate([[0.0], chances.cumsum()]), all_seconds[: len(chances) + 1]
    value = tokens - worth * spent if worth else (len(survivals) + tokens) / (before + spent)
    budget = int(value.argmax())
    price = marginal_price(chances, worth * all_seconds, budget)
    return Allotment(top(offered, budget).tolist(), price)


def padded(survivals: Sequence[Sequence[float]]) -> np.ndarray:
    """A table `[rows, K]` of each row's survivals; 0 where nothing was drafted."""
    lengths = np.array([len(survival) for survival in survivals])
    table = np.zeros((len(survivals), max(int(lengths.max(initial=0)), 1)))
    if lengths.any():
        table[np.arange(table.shape[1]) < lengths[:, None]] = np.concatenate(survivals)
    return table


def top(survivals: np.ndarray, budget: int) -> np.ndarray:
    """How many tokens of each row `[rows]` are among the `budget` most likely tokens overall."""
    falling = np.minimum.accumulate(survivals, axis=1)
    flat = falling.T.ravel()  # by depth
    budget = min(budget, int((flat > 0).sum()))
    chosen = np.zeros(flat.shape, dtype=bool)
    chosen[np.argsort(-flat, kind="stable")[:budget]] = True
    return chosen.reshape(falling.shape[::-1]).sum(axis=0)


def marginal_price(chances: np.ndarray, prices: np.ndarray, budget: int) -> float:
    """The survival that separates the verified tokens from the dropped ones.

    It lies between that of the last verified token and that of the first dropped one, and between
    the prices of one token less and one more.

    Args:
        chances: `[m]`, the survivals of all drafted tokens, highest first.
        prices: of 0, 1, … verified tokens together; at least `m + 1`.
        budget: how many tokens are verified.
    """
    least, most = 0.0, 1.0
    if budget:
        least, most = float(prices[budget] - prices[budget - 1]), float(chances[budget - 1])
    if budget < len(chances):
        least = max(least, float(chances[budget]))
    if budget + 1 < len(prices):
        most = min(most, float(prices[budget + 1] - prices[budget]))
    return (least + max(least, most)) / 2
