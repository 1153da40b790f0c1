"""The best token trees of each size, by dynamic programming over a recording.

As in Sequoia (arXiv:2402.12374), the chance that the text continues with a choice is assumed to
depend only on the choice's depth and rank, with one exception: after first choices only, later
choices are right more often. A tree's worth is the sum over its nodes of the chance that the text
reaches the node.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adaspec_rl.costs.profile import RoundCosts
from adaspec_rl.decoding.tree_shape import TreeShape
from adaspec_rl.recording.ranks import BEYOND
from adaspec_rl.recording.trace import DraftTable, Trace
from adaspec_rl.replay.branches import drafted_shape, tree_work

BUDGETS = (2, 4, 8, 16, 32, 64)  # nodes
DEPTHS = (1, 2, 3, 4, 5, 6, 8)  # levels of the trees that are tried, besides the most recorded
RANKS = 64  # choices of one node that are distinguished
USUAL = 8  # ranks of choices on paths that are likely to be in a tree


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Chances that the text continues with a node's choice of each rank, by the choice's depth."""

    first: np.ndarray  # [K, R] after first choices only
    other: np.ndarray  # [K, R] elsewhere

    @classmethod
    def of(cls, ranks: np.ndarray) -> "Acceptance":
        """The chances in a recording: `ranks` `[M, K]`, see `recording.ranks`."""
        depth = ranks.shape[1]
        first, other = np.zeros((depth, RANKS)), np.zeros((depth, RANKS))
        on_spine, on_path = np.ones((2, len(ranks)), dtype=bool)
        for level in range(depth):
            column = ranks[:, level]
            first[level] = _shares(column[on_spine])
            other[level] = _shares(column[on_path & ~on_spine])
            on_spine = on_spine & (column == 0)
            on_path = on_path & (column < USUAL)
        return cls(first, other)

    def worth(self, shape: TreeShape) -> float:
        """The average number of accepted tokens of a tree."""
        chances, spine = [1.0], [True]  # by node; the root comes last
        for parent, rank, depth in zip(shape.parents, shape.ranks, shape.depths):
            table = self.first if spine[parent] else self.other
            chances.insert(-1, chances[parent] * float(table[depth - 1, rank]))
            spine.insert(-1, spine[parent] and rank == 0)
        return sum(chances[:-1])


def _shares(column: np.ndarray) -> np.ndarray:
    counts = np.bincount(column, minlength=BEYOND + 1)[:RANKS]
    return counts / max(1, len(column))


def best_trees(acceptance: Acceptance, sizes: Sequence[int], depth: int) -> list[TreeShape]:
    """For each size, the most valuable tree with at most that many nodes and `depth` levels."""
    solved = _Solved(acceptance, max(sizes), depth)
    return [solved.tree(nodes) for nodes in sizes]


class _Solved:
    """The worth of subtrees of every size, solved from the deepest level upwards."""

    def __init__(self, acceptance: Acceptance, most: int, depth: int) -> None:
        self._chances = (acceptance.other[:depth], acceptance.first[:depth])
        self._most, self._depth = most, depth
        # By depth and whether all before were first choices: `[R, n]`, how many nodes the child of
        # each rank gets, its subtree included, if this child and those of later ranks have `n`.
        self._given: dict[tuple[int, int], np.ndarray] = {}
        below = np.zeros((2, most + 1))  # [2, n], the worth of the subtrees after a node
        for level in range(depth - 1, -1, -1):
            below = np.stack([self._children(level, spine, below) for spine in (0, 1)])

    def _children(self, level: int, spine: int, below: np.ndarray) -> np.ndarray:
        """Worth `[n]` of the best `n` nodes below a node, at depth `level` and deeper."""
        chances, sizes = self._chances[spine][level], np.arange(self._most + 1)
        given = np.zeros((RANKS, self._most + 1), dtype=np.int64)
        later = np.zeros(self._most + 1)
        rest = sizes[:, None] - sizes  # [n, k]
        for rank in range(int(np.flatnonzero(chances).max(initial=0)), -1, -1):
            after = below[1 if spine and rank == 0 else 0]
            own = np.append(0.0, chances[rank] * (1 + after[:-1]))  # [k]
            total = np.where(rest >= 0, own + later[np.maximum(rest, 0)], -np.inf)
            total[1:, 0] = 0.0  # no child of this rank, and so none of a later one
            given[rank] = total.argmax(axis=1)
            later = total.max(axis=1)
        self._given[level, spine] = given
        return later

    def tree(self, nodes: int) -> TreeShape:
        """The best tree of at most `nodes` nodes, in order of depth; never empty."""
        found: list[tuple[int, int]] = []
        level = [(-1, nodes, 1)]  # parent, nodes below it, whether all before were first choices
        for depth in range(self._depth):
            following = []
            for parent, left, spine in level:
                for rank in range(RANKS):
                    taken = int(self._given[depth, spine][rank, left])
                    if not taken:
                        break
                    following.append((len(found), taken - 1, spine if rank == 0 else 0))
                    found.append((parent, rank))
                    left -= taken
            level = following
        return TreeShape(*zip(*found)) if found else TreeShape.chain(1)


def tree_family(
    table: DraftTable, drafter: int, costs: RoundCosts, budgets: Sequence[int] = BUDGETS
) -> list[TreeShape]:
    """For each number of nodes, the tree whose depth makes a drafter's rounds fastest.

    A shape that several budgets share is listed once. Sizes whose rounds are slower than plain
    decoding, on average over all positions, are left out: all that could be learned from them is
    their cost.
    """
    assert table.ranks is not None
    acceptance = Acceptance.of(table.ranks)
    most = table.ranks.shape[1]
    depths = sorted({*(depth for depth in DEPTHS if depth < most), most})
    trees = [best_trees(acceptance, budgets, depth) for depth in depths]  # [depth][budget]

    def speed(shape: TreeShape) -> float:
        shape = drafted_shape(table, shape)
        work = tree_work(drafter, shape, shape.depth)
        return (1 + acceptance.worth(shape)) / costs.of(work)

    best = dict.fromkeys(max(found, key=speed) for found in zip(*trees))
    return [shape for shape in best if speed(shape) * costs.autoregressive_step >= 1]


def tree_families(
    trace: Trace, costs: RoundCosts, budgets: Sequence[int] = BUDGETS
) -> list[list[TreeShape]]:
    """The trees of every drafter of a trace."""
    return [tree_family(table, d, costs, budgets) for d, table in enumerate(trace.drafters)]
