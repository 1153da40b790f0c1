"""The arithmetic of one forward pass. In small models, calls cost as much as the arithmetic."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch.nn.attention.bias import CausalBias

from adaspec_rl.engine.architecture import Architecture
from adaspec_rl.engine.attention import attend
from adaspec_rl.engine.products import LINEAR, Linear, Products
from adaspec_rl.engine.weights import Weights


@dataclass(slots=True)
class Plan:
    """Where the tokens of one forward pass stand in their texts, and what they see."""

    rope: torch.Tensor  # [B or 1, W, 1, D / 2] complex64
    masks: Mapping[int | None, torch.Tensor | CausalBias | None]  # by window
    keys: Sequence[torch.Tensor]  # per layer: [B, kv heads, L, D]
    values: Sequence[torch.Tensor]
    room: Sequence[torch.Tensor]  # per layer: [B, 2 kv heads, W, D], or the layer's whole cache
    slots: tuple[torch.Tensor, torch.Tensor] | None  # rows [B, 1] and columns [B, W] in `room`


class Decoder:
    """The layers of a model, without any state."""

    def __init__(
        self, architecture: Architecture, weights: Weights, products: Products = LINEAR
    ) -> None:
        self._architecture = architecture
        self._products = products
        self._weights = weights
        self._float32 = weights.norm.dtype == torch.float32
        self._quantized = type(weights.layers[0].output) is not torch.Tensor
        self._norm = _norm_by_parts if weights.norm.device.type == "cpu" else _norm

    def run(
        self,
        tokens: torch.Tensor,
        plan: Plan,
        keep: int,
        layers: int,
        *,
        states: int,
        features: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Read `tokens` `[B, W]` through the first `layers` layers.

        Args:
            states: how many of the last tokens to return hidden states of, at least `keep`.
            features: `[B, W, hidden]`, for a model that reads them.

        Returns: logits `[B, K, V]` of the last `K = keep` tokens, and the normalised hidden states
        of the last `states`, `[B, states, hidden]`.
        """
        a, weights, norm = self._architecture, self._weights, self._norm
        batch, width = tokens.shape
        eps, kv_heads = a.norm_eps, a.kv_heads
        turning = a.heads + kv_heads  # the heads that RoPE applies to
        heads = (batch, width, turning + kv_heads, a.head_dim)
        pairs = (batch, width, turning + kv_heads, a.head_dim // 2, 2)
        parts = (a.heads, 2 * kv_heads)
        first, count = weights.layers[0], batch * width
        qkv_of = self._products.linear(first.qkv, count)
        gate_up_of = self._products.linear(first.gate_up, count)
        add_output = self._add(first.output, count)
        add_down = self._add(first.down, count)
        hidden = weights.embedding.index_select(0, tokens.reshape(-1))  # [B * W, hidden]
        if features is not None:
            assert weights.feature is not None and weights.feature_norm is not None
            known = features.reshape(count, -1).to(hidden.dtype)
            add_feature = self._add(weights.feature, count)
            add_feature(hidden, norm(known, weights.feature_norm, eps), weights.feature, None)
        for layer, window, keys, values, room in zip(
            weights.layers[:layers], a.windows, plan.keys, plan.values, plan.room
        ):
            x = norm(hidden, layer.attention_norm, eps)
            qkv = qkv_of(x, layer.qkv, layer.qkv_bias)
            if not self._float32:
                qkv = qkv.float()
            qkv = qkv.view(heads)
            if layer.qk_norm is not None:
                part = qkv.narrow(2, 0, turning)
                part.copy_(F.rms_norm(part, (a.head_dim,), None, eps) * layer.qk_norm)
            torch.view_as_complex(qkv.view(pairs)).narrow(2, 0, turning).mul_(plan.rope)
            queries, new = qkv.split(parts, 2)  # [B, W, heads, D], [B, W, 2 kv heads, D]
            if plan.slots is None:
                room.copy_(new.transpose(1, 2))
            else:
                rows, columns = plan.slots
                room[rows, :, columns] = new.to(room.dtype)
            if not self._float32:
                queries = queries.to(room.dtype)
            mixed = attend(queries, keys, values, plan.masks[window])  # [B * W, heads D]
            add_output(hidden, mixed, layer.output, layer.output_bias)
            x = norm(hidden, layer.mlp_norm, eps)
            x = gate_up_of(x, layer.gate_up, layer.gate_up_bias)
            gate, up = x.chunk(2, 1)
            add_down(hidden, F.silu(gate).mul_(up), layer.down, layer.down_bias)
        hidden = hidden.view(batch, width, -1)
        if states < width:
            hidden = hidden.narrow(1, width - states, states)
        hidden = norm(hidden, weights.norm, eps)
        logits_of = self._products.linear(weights.head, batch * keep)
        kept = hidden if keep == states else hidden.narrow(1, states - keep, keep)
        return logits_of(kept, weights.head, None), hidden

    def _add(self, weight: torch.Tensor, rows: int) -> "_Add":
        """The function that adds products of `rows` rows and `weight` to the hidden state."""
        linear = self._products.linear(weight, rows)
        if linear is F.linear and not self._quantized:
            return _add_product
        return partial(_add_linear, linear)


_Add = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None], None]


def _norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return F.rms_norm(x, weight.shape, weight, eps)


def _norm_by_parts(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """`_norm`, in a form that is twice as fast on the CPU."""
    return torch.rms_norm(x, weight.shape, None, eps).mul_(weight)


def _add_product(
    total: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> None:
    """Add `x @ weight.T + bias` to `total`, in place."""
    total.addmm_(x, weight.t())
    if bias is not None:
        total.add_(bias)


def _add_linear(
    linear: Linear,
    total: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
) -> None:
    """`_add_product` in two steps: quantised weights have no fused add and product."""
    total.add_(linear(x, weight, bias))
