"""Drafts token trees level by level, to a given shape or along the likeliest paths."""

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import numpy as np
import torch

from adaspec_rl.decoding.draft import Draft
from adaspec_rl.decoding.drafters.drafter import assembled
from adaspec_rl.decoding.drafters.tree_reader import TreeReader
from adaspec_rl.decoding.token_tree import TokenTree
from adaspec_rl.decoding.tree_shape import TreeGrowth, TreeShape
from adaspec_rl.decoding.verification import Choice, Rejection, Verification


class Choices(Protocol):
    """A drafter's choices after each node of a growing tree. Each node is asked about once."""

    def after(
        self, nodes: Sequence[int], tokens: Sequence[int], parents: Sequence[int], most: list[int]
    ) -> list[list[int]]:
        """The best next tokens after each node, best first: at most `most[i]` after `nodes[i]`.

        `nodes` is one level of the tree given by `tokens` and `parents`, in ascending order. The
        first call asks about node -1, the last committed token.
        """
        ...

    def confidences(self) -> list[list[float]]:
        """Log-probabilities of what `after` returned last, under the scores that ranked it."""
        ...

    def renumber(self, nodes: Sequence[int]) -> None:
        """Keep only these nodes of the tree, and number them 0, 1, 2, ..."""
        ...

    def log_probs(self) -> torch.Tensor:
        """Log-probabilities `[R, V]` that rejection sampling drew from, in the order of asking."""
        ...

    def chain(self, asked: Sequence[int]) -> Draft:
        """The chain of first choices after nodes, which are numbered in the order of asking."""
        ...


def grown(choices: Choices, shape: TreeShape | TreeGrowth, *, drawn: bool) -> TokenTree:
    """Draft a tree level by level; `drawn` says that rejection sampling draws its tokens.

    The tree has fewer nodes where the drafter has fewer choices.
    """
    if isinstance(shape, TreeGrowth):
        assert not drawn, "tokens that were drawn must all be verified"
        return _likeliest(choices, shape)
    tokens: list[int] = []
    parents: list[int] = []
    draws: dict[int, tuple[tuple[int, int], ...]] = {}
    first: list[int] = []
    level, end, asked = [(-1, -1)], -1, 0  # `end`: the last node of first choices only
    while level:  # nodes to go on from, and where they are in `shape`
        most = [len(shape.children[there]) for _, there in level]
        found = choices.after([node for node, _ in level], tokens, parents, most)
        following = []
        for (node, there), made in zip(level, found):
            begin = len(tokens)
            tokens += made
            parents += [node] * len(made)
            draws[node] = tuple((begin + n, asked) for n in range(len(made)))
            below = enumerate(shape.children[there][: len(made)], begin)
            following += [(number, child) for number, child in below if shape.children[child]]
            if made and node == end:
                first.append(asked)
                end = begin
            asked += 1
        level = following
    return TokenTree(
        tuple(tokens),
        tuple(parents),
        tuple(draws.get(n, ()) if drawn else () for n in (*range(len(tokens)), -1)),
        choices.log_probs() if drawn else None,
        partial(choices.chain, first),
    )


def _likeliest(choices: Choices, growth: TreeGrowth) -> TokenTree:
    """The tree of the likeliest paths.

    A node that is not among the best so far can never become one of the best, and neither can any
    node below it.
    """
    tokens: list[int] = []
    parents: list[int] = []
    confidence: list[float] = []  # of the path to a node
    begins: dict[int, int] = {}  # by node, in order of asking, where its children begin
    best: list[int] = []
    level = [-1]
    for _ in range(growth.depth):
        begin = len(tokens)
        found = choices.after(level, tokens, parents, [growth.width] * len(level))
        for node, made, own in zip(level, found, choices.confidences()):
            begins[node] = len(tokens)
            above = confidence[node] if node >= 0 else 0.0
            tokens += made
            parents += [node] * len(made)
            confidence += [above + min(0.0, value) for value in own]
        order = sorted(range(len(tokens)), key=lambda node: -confidence[node])
        best = order[: growth.nodes]  # first on ties: a kept node's parent is kept too
        level = sorted([node for node in best if node >= begin][: growth.width])
        if not level:
            break
    kept = sorted(best)
    choices.renumber(kept)
    numbers = {node: number for number, node in enumerate(kept)} | {-1: -1}
    asked = {node: number for number, node in enumerate(begins)}
    first, end = [], -1
    while (below := begins.get(end)) in numbers and parents[below] == end:
        first.append(asked[end])
        end = below
    return TokenTree(
        tuple(tokens[node] for node in kept),
        tuple(numbers[parents[node]] for node in kept),
        ((),) * (len(kept) + 1),
        None,
        partial(choices.chain, first),
    )


class ModelChoices:
    """A model's choices, ranked by their perturbed scores.

    Greedy verification ranks by the logits. Coupled verification adds the position's own noise.
    Rejection sampling adds fresh noise, which draws without replacement (Gumbel-top-k,
    arXiv:1903.06059). Tokens that have no chance under the rule are left out.
    """

    def __init__(
        self,
        reader: TreeReader,
        rule: Verification,
        position: int,
        vocab_size: int,
        ids: torch.Tensor | None = None,
    ) -> None:
        """
        Args:
            position: where the first drafted token will stand.
            ids: `[C]`, the tokens that the logits stand for; None: the whole vocabulary.
        """
        self._reader, self._rule, self._ids = reader, rule, ids
        self._depth_0, self._vocab_size = position, vocab_size
        self._depth = 0
        self._logits: list[torch.Tensor] = []  # [C], by order of asking
        self._choices: list[Choice] = []  # the first one after each node
        self._ranked: list[tuple[torch.Tensor, list[int]]] = []  # scores, and the best places

    def after(
        self, nodes: Sequence[int], tokens: Sequence[int], parents: Sequence[int], most: list[int]
    ) -> list[list[int]]:
        logits = self._reader(nodes, tokens, parents)  # [R, C]
        positions = [self._depth_0 + self._depth] * len(nodes)
        self._depth += 1
        log_probs, scores = perturbed(self._rule, logits, positions, self._ids)
        found = [top(row, count) for row, count in zip(scores, most)]
        self._ranked = list(zip(scores, found))
        drawn = self._rule.needs_log_probs
        for row, places in enumerate(found):
            own = logits[row]
            weights = own if log_probs is logits else log_probs[row]
            ranked = weights if drawn or scores is logits else scores[row]
            self._logits.append(own)
            self._choices.append(self._first(places, weights, ranked))
        if self._ids is None:
            return found
        return [self._ids[places].tolist() for places in found]

    def confidences(self) -> list[list[float]]:
        return [(row[best] - row.logsumexp(0)).tolist() for row, best in self._ranked]

    def renumber(self, nodes: Sequence[int]) -> None:
        self._reader.renumber(nodes)

    def _first(
        self, places: Sequence[int], log_probs: torch.Tensor, scores: torch.Tensor
    ) -> Choice:
        place = torch.tensor(places[:1], device=scores.device)
        token, among = (place, None) if self._ids is None else (self._ids[place], place)
        return Choice(token, log_probs, scores, self._rule.needs_log_probs, among)

    def log_probs(self) -> torch.Tensor:
        known = torch.stack([choice.log_probs for choice in self._choices])
        if self._ids is None:
            return known
        whole = known.new_full((len(known), self._vocab_size), -torch.inf)
        return whole.index_copy_(1, self._ids, known)

    def chain(self, asked: Sequence[int]) -> Draft:
        rows = [self._logits[number] for number in asked]
        return assembled(rows, [self._choices[number] for number in asked], self._ids)


def perturbed(
    rule: Verification, logits: torch.Tensor, positions: Sequence[int], ids: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and the scores by which choices are ranked, `[R, C]` both."""
    log_probs, scores = rule.weigh(logits, positions, ids)
    if isinstance(rule, Rejection):
        waits = torch.empty_like(log_probs).exponential_(generator=rule.generator)
        scores = log_probs - waits.log_()  # plus Gumbel noise
    return log_probs, scores


def top(scores: torch.Tensor, count: int) -> list[int]:
    """Indices of the `count` largest `scores` `[C]`, without -inf; of equal scores, the first."""
    if scores.device.type != "cpu":
        largest = scores.topk(min(count, len(scores)))
        values, places = largest.values.tolist(), largest.indices.tolist()
        return [place for value, place in zip(values, places) if value > -np.inf]
    left = scores.numpy() if count == 1 else scores.numpy().copy()
    found: list[int] = []
    for _ in range(min(count, len(left))):  # for a few, faster than sorting
        place = int(left.argmax())
        if left[place] == -np.inf:
            break
        found.append(place)
        if count > 1:
            left[place] = -np.inf
    return found
