"""The dynamic programme finds what trying every tree finds."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaspec_rl.decoding.tree_shape import TreeShape
from adaspec_rl.recording.ranks import BEYOND
from adaspec_rl.replay.tree_shapes import RANKS, Acceptance, best_trees, tree_families
from tests.recording.recordings import profile, toy_trace

Forest = tuple["Forest", ...]  # a subtree for each child, by rank


def forests(nodes: int, depth: int) -> Iterator[Forest]:
    """All forests of exactly `nodes` nodes and at most `depth` levels."""
    if nodes == 0:
        yield ()
    elif depth:
        for first in range(1, nodes + 1):
            for below in forests(first - 1, depth - 1):
                for others in forests(nodes - first, depth):
                    yield (below, *others)


def shape_of(forest: Forest) -> TreeShape:
    found: list[tuple[int, int]] = []

    def add(children: Forest, parent: int) -> None:
        for rank, below in enumerate(children):
            found.append((parent, rank))
            add(below, len(found) - 1)

    add(forest, -1)
    return TreeShape(*zip(*found))


@st.composite
def acceptances(draw: st.DrawFn, depth: int) -> Acceptance:
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    flat = draw(st.sampled_from([0.2, 1.0, 5.0]))
    tables = np.zeros((2, depth, RANKS))
    tables[..., :5] = rng.dirichlet([flat] * 6, size=(2, depth))[..., :5]
    return Acceptance(*tables)


@settings(max_examples=40, deadline=None)
@given(acceptance=acceptances(4), depth=st.integers(1, 4))
def test_no_tree_is_worth_more(acceptance, depth):
    sizes = [1, 2, 3, 5, 6]
    for nodes, found in zip(sizes, best_trees(acceptance, sizes, depth)):
        assert found.nodes <= nodes and found.depth <= depth
        tried = [acceptance.worth(shape_of(forest)) for forest in forests(nodes, depth)]
        assert acceptance.worth(found) == pytest.approx(max(tried))


def test_acceptance_is_counted_on_the_spine_and_beside_it():
    ranks = np.array([[0, 0], [0, 1], [0, 1], [1, 0], [9, 0], [BEYOND, BEYOND]], dtype=np.uint8)
    found = Acceptance.of(ranks)
    assert found.first[0, :2].tolist() == pytest.approx([3 / 6, 1 / 6])
    assert found.first[1, :2].tolist() == pytest.approx([1 / 3, 2 / 3])
    assert found.other[1, 0] == 1  # the path of rank 9 is in no tree that is likely
    tree = TreeShape((-1, -1, 0, 0, 1), (0, 1, 0, 1, 0))
    assert found.worth(tree) == pytest.approx(3 / 6 + 1 / 6 + 3 / 6 * 1 + 1 / 6)


def test_where_nothing_is_accepted_one_node_is_left():
    nothing = Acceptance(*np.zeros((2, 3, RANKS)))
    assert [shape.nodes for shape in best_trees(nothing, [1, 4], 3)] == [1, 1]


def test_families_depend_on_what_levels_and_nodes_cost(tmp_path):
    trace, costs = toy_trace(tmp_path, ranks=True), profile().at()
    levels = tuple((0.01,) * len(parts) for parts in costs.levels)
    verification = tuple(1.0 + 0.001 * n for n in range(len(costs.tree_verification)))
    cheap = replace(costs, levels=levels, tree_verification=verification, draft_step=(0.01, 0.01))
    dear = replace(cheap, levels=tuple((2.0,) * len(parts) for parts in costs.levels))
    dear = replace(dear, draft_step=(2.0, 2.0))
    (deep,), left = (tree_families(trace, point, (8,))[0] for point in (cheap, dear))
    assert deep.depth > 1 and left == []  # slower than plain decoding: of no use
