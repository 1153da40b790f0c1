"""A tree of proposed tokens, from one drafter or several."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from adaspec_rl.decoding.draft import Draft
from adaspec_rl.decoding.verification.tree_walks import POINT_MASS


@dataclass(frozen=True, slots=True)
class TokenTree:
    """Drafted tokens, each after its parent. No two children of a node are the same token.

    Under rejection sampling a tree also says how it was drawn. A draw is a node and the row of
    `log_probs` that the node was drawn from. Draws from the same row after the same parent are made
    without replacement. All other draws are independent, and may have hit the same node.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]  # -1: the last committed token; a parent comes before its children
    draws: tuple[tuple[tuple[int, int], ...], ...] = ((),)  # by parent; the root's come last
    log_probs: torch.Tensor | None = None  # [R, V]
    chain: Callable[[], Draft | None] = lambda: None  # the first drafter's first choices

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def depths(self) -> list[int]:
        """The depth of each node; children of the last committed token have depth 1."""
        found: list[int] = []
        for parent in self.parents:
            found.append(1 if parent < 0 else found[parent] + 1)
        return found

    @property
    def children(self) -> list[dict[int, int]]:
        """For each node, its children by token; the root's children come last."""
        found: list[dict[int, int]] = [{} for _ in range(len(self) + 1)]
        for node, (token, parent) in enumerate(zip(self.tokens, self.parents)):
            found[parent][token] = node
        return found

    def path(self, text: Sequence[int]) -> list[int]:
        """The longest path of nodes that spells the beginning of `text`."""
        found: list[int] = []
        children, node = self.children, -1
        for token in text:
            node = children[node].get(token, -1)
            if node < 0:
                break
            found.append(node)
        return found


def chain_tree(draft: Draft, vocab_size: int, drawn: bool) -> TokenTree:
    """A chain as a tree; `drawn` says that rejection sampling drew it."""
    tokens = tuple(draft.tokens.tolist())
    count = len(tokens)
    log_probs = draft.all_log_probs(vocab_size) if drawn else None
    draws: tuple[tuple[tuple[int, int], ...], ...] = ((),)
    if drawn and count:
        rows = range(count) if log_probs is not None else [POINT_MASS] * count
        after = [((node, row),) for node, row in enumerate(rows)]
        draws = (*after[1:], (), after[0])
    return TokenTree(tokens, tuple(range(-1, count - 1)), draws, log_probs, lambda: draft)


def merged(trees: Sequence[TokenTree]) -> TokenTree:
    """All `trees` in one, where shared prefixes appear once. The first tree keeps its numbers."""
    if len(trees) == 1:
        return trees[0]
    tokens: list[int] = []
    parents: list[int] = []
    known: dict[tuple[int, int], int] = {}
    draws: dict[int, list[tuple[int, int]]] = {}
    rows: list[torch.Tensor] = []
    for tree in trees:
        before = sum(map(len, rows))
        numbers = [-1]  # of the root and its nodes in the merged tree
        for token, parent in zip(tree.tokens, tree.parents):
            place = (numbers[parent + 1], token)
            if place not in known:
                known[place] = len(tokens)
                tokens.append(token)
                parents.append(place[0])
            numbers.append(known[place])
        for parent, made in zip((*range(len(tree)), -1), tree.draws):
            draws.setdefault(numbers[parent + 1], []).extend(
                (numbers[node + 1], row if row == POINT_MASS else row + before)
                for node, row in made
            )
        if tree.log_probs is not None:
            rows.append(tree.log_probs)
    return TokenTree(
        tuple(tokens),
        tuple(parents),
        tuple(tuple(draws.get(node, ())) for node in (*range(len(tokens)), -1)),
        torch.cat(rows) if rows else None,
        trees[0].chain if trees else lambda: None,
    )
