"""Fixed lists of actions, which form the action space of an environment."""

from collections.abc import Iterable, Sequence
from itertools import combinations

from adaspec_rl.decoding.round import FALLBACK, Action
from adaspec_rl.decoding.tree_shape import TreeShape

KINDS = ("length", "length_threshold", "tree", "all")
THRESHOLDS = (0.2, 0.35, 0.45, 0.55, 0.7)
TOGETHER = (2, 4, 8)  # draft lengths of two drafters in one round


def branching(kind: str) -> bool:
    """Whether actions of this kind verify more than chains; replay then needs ranks."""
    return kind in ("tree", "all")


def action_list(
    kind: str = "length",
    max_length: int = 8,
    drafters: int = 1,
    thresholds: Sequence[float] | None = None,
    trees: Sequence[Sequence[TreeShape]] | None = None,
) -> list[Action]:
    """The actions that `Discrete(len(list))` stands for; number 0 is always the fallback.

    `length`: every draft length up to `max_length`. `length_threshold`: these, and `max_length`
    with each early-stopping threshold (None: `THRESHOLDS`). `tree`: these, and all of the drafter's
    `trees` that are not chains. Each drafter gets these actions once. `all`: these, and any two
    drafters together, with some draft lengths, and with `max_length` and each threshold.

    Raises:
        ValueError: there is no such kind, or its trees are missing.
    """
    thresholds = THRESHOLDS if thresholds is None else thresholds
    if max_length < 1:
        raise ValueError(f"max_length must be at least 1, got {max_length}")
    if drafters < 1:
        raise ValueError(f"at least 1 drafter is needed, got {drafters}")
    if kind not in KINDS:
        expected = ", ".join(map(repr, KINDS[:-1]))
        raise ValueError(f"unknown action list {kind!r}: expected {expected} or {KINDS[-1]!r}")
    if branching(kind) and (trees is None or len(trees) != drafters):
        raise ValueError(
            f"the action list {kind!r} needs the token trees of {drafters} drafters, got "
            f"{len(trees or ())}: take them from a recording (replay.tree_shapes)"
        )
    actions = [FALLBACK]
    for drafter in range(drafters):
        actions += [Action(length, drafter) for length in range(1, max_length + 1)]
        if kind != "length":
            actions += [Action(max_length, drafter, threshold) for threshold in thresholds]
        if trees is not None and branching(kind):
            shapes = [shape for shape in trees[drafter] if not shape.is_chain]
            actions += [Action(shape.depth, drafter, tree=shape) for shape in shapes]
    if kind == "all":
        for one, other in combinations(range(drafters), 2):
            lengths = [length for length in TOGETHER if length <= max_length] or [max_length]
            actions += [Action(length, one, also=(other,)) for length in lengths]
            actions += [Action(max_length, one, limit, also=(other,)) for limit in thresholds]
    return actions


def most_nodes(actions: Iterable[Action]) -> int:
    """Nodes of the largest tree that any of `actions` may verify; 0 if they are all chains."""
    return max((_nodes(action) for action in actions if action.branches), default=0)


def _nodes(action: Action) -> int:
    own = action.length if action.tree is None else action.tree.nodes
    return own + action.length * len(action.also)
