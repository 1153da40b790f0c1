"""How token trees are drafted: to a shape given by ranks, or growing by confidence."""

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class TreeShape:
    """Node `i` is the choice of rank `ranks[i]` (0 = the drafter's first) after its parent.

    A chain is the tree whose parents are -1, 0, 1, ... and whose ranks are all 0.

    Attributes:
        parents: by node; -1 is the last committed token. A parent comes before its children.
        ranks: by node; siblings have 0, 1, 2, ... in this order.

    Raises:
        ValueError: there are no nodes, or they do not form a tree.
    """

    parents: tuple[int, ...]
    ranks: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.parents or len(self.parents) != len(self.ranks):
            raise ValueError(
                f"a tree needs 1 node or more and a rank for each, got {len(self.parents)} parents "
                f"and {len(self.ranks)} ranks"
            )
        siblings = [0] * (len(self.parents) + 1)  # so far, by parent; the root's come last
        for node, (parent, rank) in enumerate(zip(self.parents, self.ranks)):
            if not -1 <= parent < node:
                raise ValueError(
                    f"node {node} has parent {parent}: expected an earlier node, or -1 for the "
                    "last committed token"
                )
            if rank != siblings[parent]:
                raise ValueError(
                    f"node {node} has rank {rank} after parent {parent}: expected "
                    f"{siblings[parent]}, as siblings have 0, 1, 2 and so on"
                )
            siblings[parent] += 1

    @classmethod
    def chain(cls, length: int) -> "TreeShape":
        """A chain of `length` first choices."""
        return cls(tuple(range(-1, length - 1)), (0,) * length)

    @property
    def nodes(self) -> int:
        """Tokens that are drafted and verified."""
        return len(self.parents)

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """The depth of each node; children of the last committed token have depth 1."""
        found: list[int] = []
        for parent in self.parents:
            found.append(1 if parent < 0 else found[parent] + 1)
        return tuple(found)

    @property
    def depth(self) -> int:
        """Tokens on the longest path, the most that can be accepted."""
        return max(self.depths)

    @cached_property
    def levels(self) -> tuple[tuple[int, ...], ...]:
        """Nodes of depth 1, of depth 2, and so on."""
        found: list[list[int]] = [[] for _ in range(self.depth)]
        for node, depth in enumerate(self.depths):
            found[depth - 1].append(node)
        return tuple(map(tuple, found))

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """Each node's children in order of rank; those of the last committed token come last."""
        found: list[list[int]] = [[] for _ in range(self.nodes + 1)]
        for node, parent in enumerate(self.parents):
            found[parent].append(node)
        return tuple(map(tuple, found))

    @cached_property
    def spine(self) -> tuple[int, ...]:
        """The path of first choices: the drafter's chain, as far as it is in the tree."""
        found: list[int] = []
        below = self.children[-1]
        while below:
            found.append(below[0])
            below = self.children[below[0]]
        return tuple(found)

    @property
    def chain_length(self) -> int:
        """Tokens drafted by a drafter that has one choice per node."""
        return len(self.spine)

    def cut(self, depth: int, nodes: int) -> "TreeShape | None":
        """The first `nodes` nodes of at most this depth; None: no node is left."""
        kept = [node for node in range(self.nodes) if self.depths[node] <= depth][: max(0, nodes)]
        if len(kept) == self.nodes:
            return self
        numbers = {node: number for number, node in enumerate((-1, *kept), -1)}
        parents = tuple(numbers[self.parents[node]] for node in kept)
        return TreeShape(parents, tuple(self.ranks[node] for node in kept)) if kept else None

    @property
    def is_chain(self) -> bool:
        """Whether each node but the last has one child."""
        return self.parents == tuple(range(-1, self.nodes - 1))

    def __str__(self) -> str:
        if self.is_chain:
            return f"a chain of {self.nodes}"
        widths = "-".join(str(len(level)) for level in self.levels)
        return f"a tree of {self.nodes} nodes, {widths} by depth"


@dataclass(frozen=True, slots=True)
class TreeGrowth:
    """A token tree that grows best first: it keeps the paths that the drafter thinks likeliest.

    A path's confidence is the product of the confidences of its choices. On each level, up to
    `width` nodes that are among the `nodes` best so far get up to `width` children each. EAGLE-2
    (arXiv:2406.16858) has the same limit per level; OPT-Tree (arXiv:2406.17276) has none.

    Raises:
        ValueError: a size is not positive.
    """

    nodes: int
    depth: int
    width: int

    def __post_init__(self) -> None:
        if min(self.nodes, self.depth, self.width) < 1:
            raise ValueError(
                f"a tree needs 1 node, 1 level and a width of 1 or more, got {self.nodes}, "
                f"{self.depth} and {self.width}"
            )

    @property
    def chain_length(self) -> int:
        """Tokens drafted by a drafter that has one choice per node."""
        return min(self.nodes, self.depth)

    def cut(self, depth: int, nodes: int) -> "TreeGrowth | None":
        """The same growth with at most this depth and this many nodes; None: there is no room.

        The drafter may read up to `width` nodes per level (but for the last) that are dropped in
        the end, so the depth is limited too.
        """
        if min(depth, nodes) < 1:
            return None
        deepest = 1 + nodes // self.width
        return TreeGrowth(min(self.nodes, nodes), min(self.depth, depth, deepest), self.width)

    def __str__(self) -> str:
        return f"a tree of the {self.nodes} likeliest nodes"
