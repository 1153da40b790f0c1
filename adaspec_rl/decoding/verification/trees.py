"""Verification of token trees, under every rule that supports them."""

from functools import cache

import numpy as np
import torch

from adaspec_rl.decoding.sampling import best, warp_logits
from adaspec_rl.decoding.token_tree import TokenTree
from adaspec_rl.decoding.verification.contract import Verification, Walks
from adaspec_rl.decoding.verification.coupled import Coupled
from adaspec_rl.decoding.verification.greedy import Greedy
from adaspec_rl.decoding.verification.rejection import Rejection
from adaspec_rl.decoding.verification.traversal import Traversal, lucky, on_host
from adaspec_rl.decoding.verification.tree_walks import (
    agreeing,
    draw,
    recursive_rejection,
    traversal,
)


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
    if isinstance(rule, Walks):
        return rule.walk(logits, tree.children, position)
    if type(rule) in (Greedy, Coupled):
        _, scores = rule.weigh(logits, [position + depth for depth in (0, *tree.depths)])
        return agreeing(best(scores)[:, 0].tolist(), tree.children)
    if type(rule) not in (Rejection, Traversal):  # rules that build on these judge otherwise
        raise ValueError(
            f"{type(rule).__name__.lower()} verifies chains only: expected greedy, coupled, "
            "rejection or traversal for token trees"
        )

    assert isinstance(rule, Rejection)
    sampling = rule.sampling

    @cache
    def p(node: int) -> np.ndarray:
        return on_host(warp_logits(logits[node + 1], sampling).softmax(-1))

    def q(row: int) -> np.ndarray:
        assert tree.log_probs is not None
        return on_host(tree.log_probs[row].exp())

    luck = lucky(rule.generator, len(tree) + 2 + sum(map(len, tree.draws)))
    walk = traversal if isinstance(rule, Traversal) else recursive_rejection
    path, weights = walk(tree.tokens, tree.draws, p, q, luck)
    return path, draw(weights, luck())
