"""Drafting token trees, level by level: to a given shape, or where choices are likeliest."""

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
    """What a drafter says after the nodes of a growing tree. It is asked for each node once."""

    def after(
        self, nodes: Sequence[int], tokens: Sequence[int], parents: Sequence[int], most: list[int]
    ) -> list[list[int]]:
        """The best tokens after each of `nodes`, at most so many, the best first.

        The nodes are one level of a tree of `tokens` and `parents`, in ascending order; the first
        call asks for node -1, the last committed token.
        """
        ...

    def confidences(self) -> list[list[float]]:
        """Of what `after` gave last: log-probabilities, in the scores that ranked the choices."""
        ...

    def renumber(self, nodes: Sequence[int]) -> None:
        """Of the tree, these nodes are drafted; their numbers are now 0, 1, 2, ..."""
        ...

    def log_probs(self) -> torch.Tensor:
        """What tokens were drawn from under rejection sampling, `[R, V]`, by order of asking."""
        ...

    def chain(self, asked: Sequence[int]) -> Draft:
        """The first choices after nodes that are given by order of asking."""
        ...


def grown(choices: Choices, shape: TreeShape | TreeGrowth, *, drawn: bool) -> TokenTree:
    """Draft a tree, level by level; `drawn`: under rejection sampling.

    Where there are not as many choices, it has fewer nodes.
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

    A node that is not among the best so far never will be, nor anything after it.
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
        best = order[: growth.nodes]  # of equals the first, so that parents come with their nodes
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
    """Those of a model, ranked by their perturbed scores.

    Greedily these are the logits; coupled, they have the position's own noise; under rejection
    sampling fresh noise, which draws without replacement (Gumbel-top-k, arXiv:1903.06059). What
    the rule gives no chance is left out.
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
            ids: `[C]`, the tokens that logits are of; None: the vocabulary.
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
    """Places of the `count` largest of `scores` `[C]`, of equals the first; none that are -inf."""
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
