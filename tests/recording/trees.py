"""Random shapes of token trees, for tests."""

from hypothesis import strategies as st

from adaspec_rl.decoding.tree_shape import TreeShape


@st.composite
def shapes(draw: st.DrawFn, most: int = 8, depth: int = 4) -> TreeShape:
    """Trees of up to `most` nodes and `depth` levels."""
    parents: list[int] = []
    depths: list[int] = []
    for node in range(draw(st.integers(1, most))):
        open_ = [-1, *(n for n in range(node) if depths[n] < depth)]
        parents.append(draw(st.sampled_from(open_)))
        depths.append(1 if parents[-1] < 0 else depths[parents[-1]] + 1)
    return TreeShape(tuple(parents), tuple(parents[:n].count(p) for n, p in enumerate(parents)))
