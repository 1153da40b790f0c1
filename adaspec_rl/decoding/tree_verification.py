"""Verification of token trees, by every rule that has one."""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch

from adaspec_rl.decoding.sampling import warp_logits
from adaspec_rl.decoding.token_tree import TokenTree
from adaspec_rl.decoding.tree_walks import agreeing, recursive_rejection
from adaspec_rl.decoding.verification import Coupled, Greedy, Rejection, Verification, best


def verify_tree(
    rule: Verification, logits: torch.Tensor, tree: TokenTree, position: int
) -> tuple[list[int], int]:
    """The nodes of the accepted path, and the token after it; waits for the device.

    Args:
        logits: the target's after each node, the last committed token first, `[1 + N, V]`.
        position: of the first drafted token.

    Raises:
        ValueError: the rule verifies chains only.
    """
    if isinstance(rule, Greedy | Coupled):
        _, scores = rule.weigh(logits, [position + depth for depth in (0, *tree.depths)])
        return agreeing(best(scores)[:, 0].tolist(), tree.children)
    if not isinstance(rule, Rejection):
        raise ValueError(
            f"{type(rule).__name__.lower()} verifies chains only: expected greedy, coupled, "
            "rejection or traversal for token trees"
        )

    @cache
    def p(node: int) -> np.ndarray:
        return _probs(warp_logits(logits[node + 1], rule.sampling).softmax(-1))

    def q(row: int) -> np.ndarray:
        assert tree.log_probs is not None
        return _probs(tree.log_probs[row].exp())

    luck = _luck(rule.generator, 2 + 2 * sum(map(len, tree.draws)))
    path, weights = recursive_rejection(tree.tokens, tree.draws, p, q, luck)
    return path, draw(weights, luck())


def draw(weights: np.ndarray, luck: float) -> int:
    """An index, each as likely as its weight in `weights` `[V]` says."""
    mass = weights.cumsum(dtype=np.float64)
    return int(mass.searchsorted(min(luck * mass[-1], np.nextafter(mass[-1], 0)), side="right"))


def _luck(generator: torch.Generator, most: int) -> Callable[[], float]:
    """At most so many numbers from 0 to below 1, which come to the host at once."""
    device = generator.device
    numbers = torch.rand(most, dtype=torch.float64, device=device, generator=generator)
    return iter(numbers.tolist()).__next__


def _probs(values: torch.Tensor) -> np.ndarray:
    found: np.ndarray = values.cpu().numpy()
    return found
