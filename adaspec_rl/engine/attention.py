"""Attention over the cache, with queries grouped by the key-value head that they share."""

import torch
import torch.nn.functional as F
from torch.nn.attention.bias import CausalBias


def attend(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | CausalBias | None,
) -> torch.Tensor:
    """Weighted values, `[B * W, H * D]`.

    Args:
        queries: `[B, W, H, D]`.
        keys: `[B, H / G, L, D]`; `values` likewise.
        mask: added to the scores, `[B or 1, 1, W * G, L]`, with the `G` rows of a token next to
            each other; or the plain causal mask, which needs no memory.
    """
    batch, width, heads, dim = queries.shape
    if isinstance(mask, CausalBias):
        out = F.scaled_dot_product_attention(
            queries.transpose(1, 2), keys, values, attn_mask=mask, enable_gqa=True
        )  # [B, H, W, D]
        return out.transpose(1, 2).reshape(batch * width, heads * dim)
    kv_heads = keys.shape[1]
    if width == 1:  # the heads of one token are grouped as they are
        grouped = queries.view(batch, kv_heads, -1, dim)
        out = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask)
        return out.view(batch, heads * dim)
    grouped = queries.view(batch, width, kv_heads, -1, dim).transpose(1, 2)  # [B, H/G, W, G, D]
    grouped = grouped.reshape(batch, kv_heads, -1, dim)
    out = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask)
    out = out.view(batch, kv_heads, width, -1, dim).transpose(1, 2)
    return out.reshape(batch * width, heads * dim)


def additive(allowed: torch.Tensor, groups: int, dtype: torch.dtype) -> torch.Tensor:
    """Turn the boolean `allowed` `[B or 1, W, L]` into a mask for `attend`."""
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    mask.masked_fill_(~allowed, -torch.inf)
    return mask.repeat_interleave(groups, dim=1)[:, None]  # [B or 1, 1, W * G, L]


class CausalBand:
    """Causal masks of narrow forwards as views of one tensor, so that no call computes a mask.

    Row `i` of a forward that starts at `n` sees keys up to `n + i`. In a tensor whose row `i` sees
    columns up to `capacity + i`, this mask is the slice that starts at column `capacity - n`.
    """

    MAX_WIDTH = 32

    def __init__(self, capacity: int, window: int | None, groups: int, dtype: torch.dtype) -> None:
        self._capacity, self._groups = capacity, groups
        row = torch.arange(self.MAX_WIDTH)[:, None] + capacity
        column = torch.arange(capacity + self.MAX_WIDTH)
        allowed = column <= row
        if window is not None:
            allowed &= column > row - window
        self._mask = additive(allowed[None], groups, dtype)[0, 0]

    def mask(self, start: int, width: int) -> torch.Tensor:
        """The mask for `width` tokens after `start` others, `[W * G, start + W]`."""
        columns = self._mask.narrow(1, self._capacity - start, start + width)
        return columns.narrow(0, 0, width * self._groups)
