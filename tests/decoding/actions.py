"""Any actions, for tests."""

from hypothesis import strategies as st

from adaspec_rl.decoding.round import Action
from adaspec_rl.decoding.tree_shape import TreeGrowth
from tests.decoding.test_tree_shape import shapes


def chains(drafters: int, most: int = 6) -> st.SearchStrategy[Action]:
    return st.builds(
        Action,
        length=st.integers(0, most),
        drafter=st.integers(0, drafters - 1),
        threshold=st.sampled_from([0.0, 0.3, 0.8]),
    )


@st.composite
def trees(draw: st.DrawFn, drafters: int) -> Action:
    """A tree by one drafter, and chains by some of the others."""
    shape, order = draw(shapes()), draw(st.permutations(range(drafters)))
    also = order[1 : draw(st.integers(1, min(3, drafters)))]
    return Action(shape.depth, order[0], tree=shape, also=tuple(also))


@st.composite
def growing(draw: st.DrawFn, drafters: int) -> Action:
    """A tree that grows where one drafter is confident, and chains by some of the others."""
    growth = draw(st.builds(TreeGrowth, st.integers(1, 9), st.integers(1, 5), st.integers(1, 4)))
    order = draw(st.permutations(range(drafters)))
    also = order[1 : draw(st.integers(1, min(3, drafters)))]
    return Action(growth.depth, order[0], tree=growth, also=tuple(also))


@st.composite
def together(draw: st.DrawFn, drafters: int) -> Action:
    """Chains by several drafters."""
    order = draw(st.permutations(range(drafters)))
    return Action(
        draw(st.integers(1, 5)),
        order[0],
        draw(st.sampled_from([0.0, 0.4])),
        also=tuple(order[1 : draw(st.integers(2, drafters))]),
    )


def anything(drafters: int) -> st.SearchStrategy[Action]:
    return st.one_of(trees(drafters), together(drafters), chains(drafters))
