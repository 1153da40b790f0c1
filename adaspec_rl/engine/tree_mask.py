"""What the tokens of a token tree see: the text before the tree, and their own ancestors."""

from collections.abc import Sequence
from functools import lru_cache

import torch

_KEPT = 1024  # trees whose masks are kept, as a policy reuses its shapes


def tree_mask(parents: Sequence[int], width: int, stem: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions `[1, W]` and mask `[1, W, stem + N]` of the last `W = width` nodes of a tree.

    The tree follows `stem` tokens; node `i` lies in slot `stem + i`. For `LeanModel.forward`.

    Args:
        parents: of all `N` nodes, each an earlier node; -1 stands for the last token before them.
    """
    ancestors, depths = _ancestry(tuple(parents))
    nodes = len(ancestors)
    mask = torch.ones(1, width, stem + nodes, dtype=torch.bool)
    mask[0, :, stem:] = ancestors[nodes - width :]
    return depths[None, nodes - width :] + stem, mask


@lru_cache(maxsize=_KEPT)
def _ancestry(parents: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Which nodes each node sees, `[N, N]`, and how many ancestors it has, `[N]`."""
    sees = torch.eye(len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if not -1 <= parent < node:
            raise ValueError(f"node {node} has parent {parent}: expected an earlier node, or -1")
        if parent >= 0:
            sees[node] |= sees[parent]
    return sees, sees.sum(1) - 1
