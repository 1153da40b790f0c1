"""A transformers model's weights as the lean engine wants them, in the same memory.

The lean engine has one matrix for queries, keys and values, and one for gate and up. So these
weights are copied into one piece of memory, layer by layer, and the module's values, gate and up
become views of it. Only queries and keys then exist twice, because their rows are interleaved for
RoPE: 10% of Llama 3.1 8B's layers. All other weights stay in the module's own memory.
"""

from collections.abc import Mapping

import torch
from transformers import PreTrainedModel

from adaspec_rl.engine.architecture import Architecture
from adaspec_rl.engine.weights import LayerWeights, Weights, empty_layer

_META = torch.device("meta")


def shareable(model: PreTrainedModel) -> bool:
    """Whether the weights are plain tensors of one type on one device, without hooks."""
    parameters = list(model.parameters())
    if len({(p.dtype, p.device) for p in parameters}) != 1 or list(model.buffers(recurse=False)):
        return False
    plain = all(type(p.data) is torch.Tensor and p.device.type != "meta" for p in parameters)
    hooked = any(hasattr(module, "_hf_hook") for module in model.modules())
    linear = all(
        type(module) is torch.nn.Linear
        for name, module in model.named_modules()
        if name.endswith("_proj")
    )
    return plain and linear and not hooked and parameters[0].dtype.is_floating_point


@torch.no_grad()
def shared_weights(model: PreTrainedModel, architecture: Architecture) -> Weights:
    """The weights of `model`, which goes on working, with values, gate and up moved."""
    held = dict(model.named_parameters(remove_duplicate=False))
    embedding = held["model.embed_tokens.weight"].data
    head = held["lm_head.weight"].data
    same = head.data_ptr() == embedding.data_ptr()
    return Weights(
        embedding=embedding,
        layers=[_layer(held, architecture, number) for number in range(architecture.layers)],
        norm=held["model.norm.weight"].data,
        head=embedding if same else head,
    )


def _layer(held: Mapping[str, torch.nn.Parameter], a: Architecture, number: int) -> LayerWeights:
    shapes = empty_layer(a, next(iter(held.values())).dtype, _META)

    def of(name: str) -> torch.nn.Parameter:
        return held[f"model.layers.{number}.{name}"]

    def own(name: str, like: torch.Tensor | None) -> torch.Tensor | None:
        return None if like is None else of(name).data

    def joined(kind: str, like: torch.Tensor | None) -> torch.Tensor | None:
        if like is None:
            return None
        parts = [of(f"self_attn.{part}_proj.{kind}") for part in "qkv"]
        whole = torch.empty(like.shape, dtype=like.dtype, device=parts[0].device)
        query, key, value = whole.split([len(part) for part in parts])
        _interleave(query, parts[0].data, a.heads)
        _interleave(key, parts[1].data, a.kv_heads)
        _move(parts[2], value)
        return whole

    def stacked(kind: str, like: torch.Tensor | None) -> torch.Tensor | None:
        if like is None:
            return None
        parts = [of(f"mlp.{part}_proj.{kind}") for part in ("gate", "up")]
        whole = torch.empty(like.shape, dtype=like.dtype, device=parts[0].device)
        for part, room in zip(parts, whole.chunk(2)):
            _move(part, room)
        return whole

    qk_norm = None
    if shapes.qk_norm is not None:
        rows = [of("self_attn.q_norm.weight").data] * a.heads
        rows += [of("self_attn.k_norm.weight").data] * a.kv_heads
        qk_norm = torch.stack(rows).unflatten(1, (2, -1)).transpose(1, 2).flatten(1).contiguous()
    qkv, gate_up = joined("weight", shapes.qkv), stacked("weight", shapes.gate_up)
    assert qkv is not None and gate_up is not None
    return LayerWeights(
        attention_norm=of("input_layernorm.weight").data,
        qkv=qkv,
        qkv_bias=joined("bias", shapes.qkv_bias),
        qk_norm=qk_norm,
        output=of("self_attn.o_proj.weight").data,
        output_bias=own("self_attn.o_proj.bias", shapes.output_bias),
        mlp_norm=of("post_attention_layernorm.weight").data,
        gate_up=gate_up,
        gate_up_bias=stacked("bias", shapes.gate_up_bias),
        down=of("mlp.down_proj.weight").data,
        down_bias=own("mlp.down_proj.bias", shapes.down_bias),
    )


def _interleave(room: torch.Tensor, rows: torch.Tensor, heads: int) -> None:
    """Order the rows of each head as (0, d/2, 1, d/2 + 1, ...)."""
    halves = rows.unflatten(0, (heads, 2, -1))  # [heads, 2, d/2, ...]
    room.unflatten(0, (heads, -1, 2)).copy_(halves.transpose(1, 2))


def _move(parameter: torch.nn.Parameter, room: torch.Tensor) -> None:
    """Move `parameter` to the memory `room`."""
    room.copy_(parameter.data)
    parameter.data = room


def identity(model: PreTrainedModel) -> tuple[tuple[int, int], ...]:
    """A key that changes when weights are replaced, moved or written to."""
    return tuple((p.data_ptr(), p._version) for p in model.parameters())
