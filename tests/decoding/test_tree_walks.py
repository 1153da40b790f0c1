"""Sampled trees keep the target's distribution, and the tests that say so can fail."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch

from adaspec_rl.decoding.token_tree import TokenTree, merged
from adaspec_rl.decoding.verification import tree_walks
from adaspec_rl.decoding.verification.tree_walks import (
    POINT_MASS,
    agreeing,
    recursive_rejection,
    traversal,
)

V, SAMPLES, FEWER = 4, 40_000, 12_000
RNG = np.random.default_rng(0)


def conditional(sharpness: float) -> list[np.ndarray]:
    """A language model over two tokens: [V], [V, V], [V, V, V]."""
    logits = [sharpness * RNG.standard_normal((V,) * order) for order in (1, 2, 3)]
    return [np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in logits]


TARGET, DRAFTER, OTHER = conditional(1.0), conditional(0.8), conditional(0.8)
Walk = Callable[..., tuple[list[int], np.ndarray]]


def ordered(q: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """All tokens, drawn one after the other without replacement, `[..., V]`."""
    return (np.log(q) + rng.gumbel(size=q.shape)).argsort(-1)[..., ::-1]


class Trees:
    """Two draws after the text, two after the first of them, one after the second."""

    parents = (-1, -1, 0, 0, 1)
    draws = (((2, 1), (3, 1)), ((4, 2),), (), (), (), ((0, 0), (1, 0)))

    def __init__(self, rng: np.random.Generator, replace: bool = False) -> None:
        root = ordered(np.broadcast_to(DRAFTER[0], (SAMPLES, V)), rng)
        self.first, self.second = root[:, 0], root[:, 1]
        if replace:
            self.second = ordered(np.broadcast_to(DRAFTER[0], (SAMPLES, V)), rng)[:, 0]
        self.below = ordered(DRAFTER[1][self.first], rng)
        self.last = ordered(DRAFTER[1][self.second], rng)[:, 0]

    def __getitem__(self, n: int) -> TokenTree:
        a, b = int(self.first[n]), int(self.second[n])
        tokens = (a, b, *self.below[n, :2].tolist(), int(self.last[n]))
        rows = np.stack([DRAFTER[0], DRAFTER[1][a], DRAFTER[1][b]])
        return TokenTree(tokens, self.parents, self.draws, torch.from_numpy(np.log(rows)))


class Merged:
    """The same, a chain of two by another drafter, and a guess."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.trees = Trees(rng)
        self.one = ordered(np.broadcast_to(OTHER[0], (SAMPLES, V)), rng)[:, 0]
        self.two = ordered(OTHER[1][self.one], rng)[:, 0]

    def __getitem__(self, n: int) -> TokenTree:
        a, b = int(self.one[n]), int(self.two[n])
        rows = torch.from_numpy(np.log(np.stack([OTHER[0], OTHER[1][a]])))
        chain = TokenTree((a, b), (-1, 0), (((1, 1),), (), ((0, 0),)), rows)
        guess = TokenTree((2,), (-1,), ((), ((0, POINT_MASS),)))
        return merged([self.trees[n], chain, guess])


def texts_of(tree: TokenTree) -> list[tuple[int, ...]]:
    """What each node ends, the root's first."""
    found: list[tuple[int, ...]] = [()]
    for token, parent in zip(tree.tokens, tree.parents):
        found.append((*found[parent + 1], token))
    return found


def outcome(walk: Walk, tree: TokenTree, luck: Callable[[], float], *, wrong: bool) -> list[int]:
    """What a round emits."""
    texts = texts_of(tree)
    log_probs = np.zeros((0, V)) if tree.log_probs is None else tree.log_probs.numpy()

    def p(node: int) -> np.ndarray:
        if wrong and node >= 0 and len(texts[node + 1]) == 1:
            node = 1 - node  # of the sibling
        text = texts[node + 1]
        return TARGET[len(text)][text]

    path, weights = walk(tree.tokens, tree.draws, p, lambda row: np.exp(log_probs[row]), luck)
    after = int((weights.cumsum() / weights.sum()).searchsorted(luck(), side="right"))
    return [*(tree.tokens[node] for node in path), min(after, V - 1)]


@cache
def exact() -> np.ndarray:
    one, two, three = TARGET
    return one[:, None, None] * two[:, :, None] * three


def chi_squared_z(
    walk: Walk, trees: Trees | Merged, samples: int = SAMPLES, *, wrong: bool = False
) -> tuple[float, float]:
    """Standard deviations of chi-squared above its mean, over three tokens; tokens a round."""
    rng = np.random.default_rng(1)
    lucky = iter(rng.random(40 * samples).tolist())
    counts, emitted = np.zeros((V,) * 3), 0
    for n in range(samples):
        text = outcome(walk, trees[n], lambda: next(lucky), wrong=wrong)
        emitted += len(text)
        while len(text) < 3:  # as later rounds go on
            probs = TARGET[len(text)][tuple(text)]
            text.append(int(min(probs.cumsum().searchsorted(next(lucky), side="right"), V - 1)))
        counts[tuple(text)] += 1
    expected = samples * exact()
    assert expected.min() > 5
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = counts.size - 1
    return float((statistic - freedom) / np.sqrt(2 * freedom)), emitted / samples


@pytest.mark.slow
def test_trees_follow_the_targets_distribution():
    found = [
        chi_squared_z(walk, Trees(np.random.default_rng(2)))
        for walk in (recursive_rejection, traversal)
    ]
    assert all(z < 4 for z, _ in found)
    assert found[1][1] > found[0][1] + 0.005  # leaves first keeps more


@pytest.mark.slow
def test_merged_drafts_follow_the_targets_distribution():
    assert chi_squared_z(recursive_rejection, Merged(np.random.default_rng(3)))[0] < 4


@pytest.mark.filterwarnings("ignore:invalid value")  # what has been drawn is drawn again
@pytest.mark.parametrize("walk", [recursive_rejection, traversal])
@pytest.mark.parametrize("bug", ["replacement", "residual", "parent"])
def test_a_planted_bug_is_found_out(monkeypatch, walk, bug):
    if bug == "residual":
        monkeypatch.setattr(tree_walks, "residual", lambda p, q: p)
    trees = Trees(np.random.default_rng(2), replace=bug == "replacement")
    assert chi_squared_z(walk, trees, FEWER, wrong=bug == "parent")[0] > 8


def test_the_walk_follows_the_targets_picks():
    tree = TokenTree((3, 1, 2, 0), (-1, -1, 1, 2))
    assert agreeing([1, 9, 2, 0, 7], tree.children) == ([1, 2, 3], 7)
    assert agreeing([1, 9, 5, 0, 7], tree.children) == ([1], 5)
    assert agreeing([0, 9, 2, 0, 7], tree.children) == ([], 0)
    assert tree.path([1, 2, 9]) == [1, 2] and tree.path([2]) == []


def test_merging_shares_prefixes():
    first = TokenTree((3, 4), (-1, 0), (((1, 1),), (), ((0, 0),)), torch.zeros(2, 9))
    second = TokenTree(
        (3, 5, 6), (-1, 0, -1), (((1, 1),), (), (), ((0, 0), (2, 0))), torch.ones(2, 9)
    )
    both = merged([first, second])
    assert both.tokens == (3, 4, 5, 6)
    assert both.parents == (-1, 0, 0, -1)
    assert both.draws == (((1, 1), (2, 3)), (), (), (), ((0, 0), (0, 2), (3, 2)))
    assert both.log_probs.tolist() == [[0.0] * 9] * 2 + [[1.0] * 9] * 2
