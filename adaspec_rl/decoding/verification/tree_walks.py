"""Walks through a verified token tree: which path is accepted, and what follows it.

These are pure functions over NumPy arrays on the host. Node -1 is the last committed token; `draws`
and `children` are those of `TokenTree`, so index -1 finds the root's.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

POINT_MASS = -1  # in place of a row: the drafter offered nothing else

Distribution = Callable[[int], np.ndarray]  # [V], by node, or by row of `log_probs`
Draws = Sequence[Sequence[tuple[int, int]]]
Luck = Callable[[], float]  # from 0 to below 1


def agreeing(picks: Sequence[int], children: Sequence[Mapping[int, int]]) -> tuple[list[int], int]:
    """The path that spells the target's picks, and the pick after it.

    `picks` holds the target's own choice after each node, the root's first.
    """
    path: list[int] = []
    node = -1
    while (below := children[node].get(picks[node + 1])) is not None:
        path.append(below)
        node = below
    return path, picks[node + 1]


def recursive_rejection(
    tokens: Sequence[int], draws: Draws, p: Distribution, q: Distribution, luck: Luck
) -> tuple[list[int], np.ndarray]:
    """Recursive rejection (SpecInfer, arXiv:2305.09781; without replacement, arXiv:2402.12374).

    After each node, accept the first draw x ~ q with probability min(1, p(x) / q(x)). If it is
    refused, the next draw has p <- norm (p - q)+ and q <- q without x, and so on. If all are
    refused, the token comes from what is left of p.

    Returns: the accepted path and the weights `[V]` of the token after it.
    """
    path: list[int] = []
    while True:
        node = path[-1] if path else -1
        target, offered = p(node), _Offered(q, len(p(node)))
        for child, row in draws[node]:
            token, drawn = tokens[child], offered.of(row, tokens[child])
            if luck() * drawn[token] < target[token]:
                path.append(child)
                break
            target = _normalised(residual(target, drawn), target)
            offered.refuse(row, token)
        else:
            return path, target


def traversal(
    tokens: Sequence[int], draws: Draws, p: Distribution, q: Distribution, luck: Luck
) -> tuple[list[int], np.ndarray]:
    """Traversal verification (arXiv:2505.12398): leaves first. On a chain, it is block verification
    (arXiv:2403.10444).

    Every node has a chance c of being accepted together with all nodes before it. The root's chance
    is 1. A draw x ~ q after a node with p and c has the chance min(1, c p(x) / q(x)). A leaf is
    accepted with its chance. If it is refused it leaves the tree, and with r = (c p - q)+ and s =
    sum r its parent continues with

        p <- r / s,   c <- s / (s + 1 - c),   q <- q without x.

    A node without any children left is a leaf.

    Returns: as `recursive_rejection`.
    """

    def visit(node: int, chance: float) -> tuple[list[int], np.ndarray] | None:
        target, offered = p(node), _Offered(q, len(p(node)))
        for child, row in draws[node]:
            token, drawn = tokens[child], offered.of(row, tokens[child])
            found = visit(child, min(1.0, chance * target[token] / drawn[token]))
            if found is not None:
                return [child, *found[0]], found[1]
            rest = residual(chance * target, drawn)
            left = float(rest.sum())
            target = _normalised(rest, target)
            chance = left / (left + 1 - chance) if left > 0 else float(node < 0)
            offered.refuse(row, token)
        return ([], target) if luck() < chance else None

    found = visit(-1, 1.0)
    assert found is not None  # the root's chance is 1 all along
    return found


def draw(weights: np.ndarray, luck: float) -> int:
    """Draw an index with probability proportional to its weight in `weights` `[V]`."""
    mass = weights.cumsum(dtype=np.float64)
    return int(mass.searchsorted(min(luck * mass[-1], np.nextafter(mass[-1], 0)), side="right"))


def residual(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """(p - q)+"""
    return np.maximum(p - q, 0)


def without(q: np.ndarray, token: int) -> np.ndarray:
    """What is left of `q` once `token` has been drawn, normalised; zeros if nothing is left."""
    rest = q.copy()
    rest[token] = 0
    return _normalised(rest, rest)


def _normalised(weights: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    total = weights.sum()
    return weights / total if total > 0 else otherwise  # only rounding can leave nothing


class _Offered:
    """The distributions that draws after one node come from, updated as draws are refused."""

    def __init__(self, q: Distribution, vocab_size: int) -> None:
        self._q, self._size = q, vocab_size
        self._left: dict[int, np.ndarray] = {}  # by row

    def of(self, row: int, token: int) -> np.ndarray:
        """The distribution that the next draw from `row`, `token`, comes from."""
        if row == POINT_MASS:
            point = np.zeros(self._size, dtype=np.float32)
            point[token] = 1
            return point
        if row not in self._left:
            self._left[row] = self._q(row)
        return self._left[row]

    def refuse(self, row: int, token: int) -> None:
        if row != POINT_MASS:
            self._left[row] = without(self.of(row, token), token)
