"""Shapes of token trees, and actions that name them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaspec_rl.decoding.round import Action, Round
from adaspec_rl.decoding.tree_shape import TreeShape


@st.composite
def shapes(draw: st.DrawFn, most: int = 12) -> TreeShape:
    """Any tree of up to `most` nodes."""
    parents: list[int] = []
    for node in range(draw(st.integers(1, most))):
        parents.append(draw(st.integers(-1, node - 1)))
    ranks = tuple(parents[:node].count(parent) for node, parent in enumerate(parents))
    return TreeShape(tuple(parents), ranks)


@given(shapes())
def test_levels_children_and_spine_tell_the_same_tree(shape):
    assert sorted(node for level in shape.levels for node in level) == list(range(shape.nodes))
    assert len(shape.levels) == shape.depth == Action(shape.depth, tree=shape).length
    for node, parent in enumerate(shape.parents):
        assert shape.children[parent][shape.ranks[node]] == node
        assert shape.depths[node] == (1 if parent < 0 else shape.depths[parent] + 1)
    assert all(shape.ranks[node] == 0 for node in shape.spine)
    assert not shape.children[shape.spine[-1]]
    assert shape.is_chain == (shape == TreeShape.chain(shape.nodes))


@pytest.mark.parametrize(
    "parents, ranks, message",
    [
        ((), (), "1 node or more"),
        ((-1, 0), (0,), "got 2 parents and 1 ranks"),
        ((-1, 1), (0, 0), "node 1 has parent 1: expected an earlier node"),
        ((-2,), (0,), "node 0 has parent -2"),
        ((-1, -1), (0, 0), "node 1 has rank 0 after parent -1: expected 1"),
        ((-1, 0), (0, 1), "node 1 has rank 1 after parent 0: expected 0"),
    ],
)
def test_what_is_no_tree_is_refused(parents, ranks, message):
    with pytest.raises(ValueError, match=message):
        TreeShape(parents, ranks)


FORK = TreeShape((-1, -1, 0), (0, 1, 0))


def test_actions_that_branch_say_so():
    assert str(Action(2, tree=FORK)) == "draft a tree of 3 nodes, 2-1 by depth"
    assert str(Action(3, 1, also=(0, 2))) == "draft 3 by drafters 1, 0, 2"
    assert str(Action(3, tree=TreeShape.chain(3))) == "draft a chain of 3"
    with pytest.raises(ValueError, match="depth of its tree, 2, got 3"):
        Action(3, tree=FORK)
    with pytest.raises(ValueError, match="expected no threshold"):
        Action(2, threshold=0.5, tree=FORK)
    for wrong in ({"also": (0,)}, {"also": (1, 1)}, {"also": (-1,)}, {"length": 0, "also": (1,)}):
        with pytest.raises(ValueError, match="must differ and draft at least 1"):
            Action(**{"length": 2, **wrong})


def test_positions_that_verification_looked_at():
    def reached(accepted: int, at_leaf: bool) -> int:
        tokens = tuple(range(accepted + 1))
        return Round(0, 5, accepted, tokens, 0.0, at_leaf=at_leaf).reached

    assert [reached(0, False), reached(2, False), reached(2, True)] == [1, 3, 2]
