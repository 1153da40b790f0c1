"""One tensor of a GGUF file, under the name and in the layout of a checkpoint."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

IGNORED = re.compile(r"rope_freqs\.weight|blk\.\d+\.attn_rot_embd\.weight")  # the config says it

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NAME = re.compile(r"(blk\.(?P<layer>\d+)\.)?(?P<part>\w+)\.(?P<kind>weight|bias)")


def checkpoint_tensor(tensor: Any, config: Mapping[str, Any]) -> tuple[str, torch.Tensor]:
    """The name and exact values of a `gguf.ReaderTensor`.

    Raises:
        ValueError: no lean family has this tensor, or `gguf` cannot undo its quantisation.
    """
    match = _NAME.fullmatch(tensor.name)
    if match is None or match["part"] not in _NAMES:
        raise ValueError(f"the tensor {tensor.name} is not supported by the lean engine")
    layer = f"model.layers.{match['layer']}." if match["layer"] else ""
    values = _values(tensor)
    heads = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}.get(match["part"])
    if heads and config["model_type"] in ("llama", "mistral"):
        values = _unpermuted(values, config[heads])
    return f"{layer}{_NAMES[match['part']]}.{match['kind']}", values.contiguous()


def _values(tensor: Any) -> torch.Tensor:
    from gguf import GGMLQuantizationType as Kind
    from gguf import dequantize

    if tensor.tensor_type == Kind.F16:
        return torch.from_numpy(np.array(tensor.data))
    try:
        values = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type)))
    except NotImplementedError:
        raise ValueError(
            f"{tensor.name} is quantised as {tensor.tensor_type.name}, which the gguf package "
            "cannot undo: take a file of Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q6_K, Q8_0, F16 or F32"
        ) from None
    return values.bfloat16() if tensor.tensor_type == Kind.BF16 else values


def _unpermuted(values: torch.Tensor, heads: int) -> torch.Tensor:
    """Undo llama.cpp's interleaving of query or key rows `[heads d, ...]` within each head."""
    pairs = values.unflatten(0, (heads, -1, 2))  # [heads, d/2, 2, ...]
    return pairs.transpose(1, 2).reshape(values.shape)
