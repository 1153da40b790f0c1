"""Replays rounds that verify more than a chain: token trees, and chains of several drafters.

Under greedy or coupled verification, the accepted path is the longest one that spells the text. In
a tree whose shape is given by ranks, the ranks of the text's own tokens lead along this path. With
several chains, it is the chain that was accepted furthest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from adaspec_rl.costs.work import PLAIN_STEP, DraftWork, RoundWork
from adaspec_rl.decoding.drafters import NgramLookup
from adaspec_rl.decoding.round import Action
from adaspec_rl.decoding.tree_shape import TreeGrowth, TreeShape
from adaspec_rl.recording.ranks import BEYOND
from adaspec_rl.recording.trace import DraftTable


@dataclass(frozen=True, slots=True)
class Branches:
    """Rounds that branch, at `M` positions."""

    nodes: np.ndarray  # [M] tokens verified
    accepted: np.ndarray  # [M] tokens of the accepted path
    at_leaf: np.ndarray  # [M] bool: nothing was drafted after the accepted path
    first: np.ndarray  # [M] tokens of the first drafter's chain of first choices
    # [M, P] what distinguishes the work of rounds: the depth of a tree; or the tokens of each of
    # several chains, and the number of nodes that they make together.
    parts: np.ndarray


def drafted_shape(table: DraftTable, shape: TreeShape | TreeGrowth) -> TreeShape:
    """The shape that a drafter drafts of a tree: a lookup has first choices only."""
    assert isinstance(shape, TreeShape), "replay refuses trees that grow by confidence"
    return TreeShape.chain(len(shape.spine)) if table.name == NgramLookup.name else shape


def tree_rounds(table: DraftTable, shape: TreeShape, room: np.ndarray) -> Branches:
    """Rounds with a token tree, which is cut to `room` `[M]` levels."""
    assert table.ranks is not None and shape.nodes < BEYOND
    allowed = np.maximum(np.minimum(room, (table.tokens >= 0).sum(axis=1)), 0)
    depth = np.minimum(allowed, shape.depth)
    child = _children(shape)
    node = np.full(len(depth), shape.nodes)  # the root
    accepted = np.zeros(len(depth), dtype=np.int64)
    alive = np.ones(len(depth), dtype=bool)
    for level in range(shape.depth):
        below = child[node, table.ranks[:, level]]
        alive = alive & (below >= 0) & (level < depth)
        node = np.where(alive, below, node)
        accepted += alive
    nodes = np.append(0, np.cumsum([len(level) for level in shape.levels]))[depth]
    leaf = (depth > 0) & ((accepted == depth) | (child[node, 0] < 0))
    first = np.minimum(depth, len(shape.spine))
    return Branches(nodes, accepted, leaf, first, depth[:, None])


@cache
def _children(shape: TreeShape) -> np.ndarray:
    """By node (the root last) and rank `[nodes + 1, BEYOND + 1]`, the child; -1: there is none."""
    found = np.full((shape.nodes + 1, BEYOND + 1), -1)
    for node, (parent, rank) in enumerate(zip(shape.parents, shape.ranks)):
        found[parent, rank] = node
    return found


def merged_rounds(tables: Sequence[DraftTable], lengths: np.ndarray) -> Branches:
    """Rounds with chains of `lengths` `[P, M]` tokens, one by each of `P` drafters."""
    accepted = np.minimum([table.accepted for table in tables], lengths)  # [P, M]
    longest = accepted.max(axis=0)
    goes_on = (accepted == longest) & (lengths > longest)
    nodes = lengths[0].astype(np.int64)
    for number, table in enumerate(tables[1:], 1):
        shared = [
            _common(table.tokens, other.tokens, np.minimum(lengths[number], lengths[n]))
            for n, other in enumerate(tables[:number])
        ]
        nodes = nodes + lengths[number] - np.max(shared, axis=0)
    parts = np.vstack([lengths, nodes]).T
    return Branches(nodes, longest, ~goes_on.any(axis=0) & (nodes > 0), lengths[0], parts)


def _common(one: np.ndarray, other: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Length `[M]` of the common prefix of two drafts `[M, K]`, at most `most` `[M]`."""
    alike = (one == other).cumprod(axis=1).sum(axis=1)
    return np.minimum(alike, most)


def tree_work(drafter: int, shape: TreeShape, depth: int) -> RoundWork:
    """The models' work if there was room for a tree's first `depth` levels."""
    if not depth:
        return PLAIN_STEP
    levels = tuple(len(level) for level in shape.levels[:depth])
    return RoundWork((DraftWork(drafter, levels),), sum(levels))


def merged_work(action: Action, drafted: Sequence[int], nodes: int) -> RoundWork:
    """The models' work if an action's drafters drafted so many tokens each, `nodes` in total."""
    drafts = [
        DraftWork.chain(drafter, count, stopping=action.stops, asked=action.length)
        for drafter, count in zip((action.drafter, *action.also), drafted)
        if count
    ]
    return RoundWork(tuple(drafts), nodes)
