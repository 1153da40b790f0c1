"""Which drafted tokens of a batch are worth verifying."""

from collections.abc import Sequence

import numpy as np


def padded(survivals: Sequence[np.ndarray]) -> np.ndarray:
    """`[rows, K]` from survivals of each row; 0 where nothing was drafted."""
    lengths = np.array([len(survival) for survival in survivals])
    table = np.zeros((len(survivals), max(int(lengths.max(initial=0)), 1)))
    if lengths.any():
        table[np.arange(table.shape[1]) < lengths[:, None]] = np.concatenate(survivals)
    return table


def ranked(survivals: np.ndarray) -> np.ndarray:
    """All positive survivals of `[rows, K]`, the most likely first: what budgets of 1, 2, … add."""
    chances = survivals[survivals > 0]
    return -np.sort(-chances)


def top(survivals: np.ndarray, budget: int) -> np.ndarray:
    """How many tokens of each row `[rows]` are among the `budget` most likely ones of all.

    Survival falls along a row, so these are prefixes. Of equal tokens the shallower come first.
    """
    falling = np.minimum.accumulate(survivals, axis=1)
    flat = falling.T.ravel()  # by depth
    budget = min(budget, int((flat > 0).sum()))
    chosen = np.zeros(flat.shape, dtype=bool)
    chosen[np.argsort(-flat, kind="stable")[:budget]] = True
    return chosen.reshape(falling.shape[::-1]).sum(axis=0)
