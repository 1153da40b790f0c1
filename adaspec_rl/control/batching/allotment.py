"""Which drafted tokens of a batch are worth verifying."""

from collections.abc import Sequence

import numpy as np


def padded(survivals: Sequence[np.ndarray]) -> np.ndarray:
    """A table `[rows, K]` of each row's survivals; 0 where nothing was drafted."""
    lengths = np.array([len(survival) for survival in survivals])
    table = np.zeros((len(survivals), max(int(lengths.max(initial=0)), 1)))
    if lengths.any():
        table[np.arange(table.shape[1]) < lengths[:, None]] = np.concatenate(survivals)
    return table


def ranked(survivals: np.ndarray) -> np.ndarray:
    """All positive survivals of `[rows, K]`, highest first: what each token of a budget adds."""
    chances = survivals[survivals > 0]
    return -np.sort(-chances)


def top(survivals: np.ndarray, budget: int) -> np.ndarray:
    """How many tokens of each row `[rows]` are among the `budget` most likely tokens overall.

    Survival falls along a row, so the chosen tokens form prefixes. Of equal tokens, those of lower
    depth come first.
    """
    falling = np.minimum.accumulate(survivals, axis=1)
    positive = falling[falling > 0]
    if budget >= len(positive):
        return (falling > 0).sum(axis=1)
    if budget < 1:
        return np.zeros(len(falling), dtype=np.int64)
    least = np.partition(positive, -budget)[-budget]  # that of the last token of the budget
    chosen = (falling > least).sum(axis=1)
    equal = np.argwhere(least == falling.T)  # by depth
    chosen += np.bincount(equal[: budget - chosen.sum(), 1], minlength=len(falling))
    return chosen
