"""The `config.json` that corresponds to a GGUF file's metadata, which are read strictly."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

ARCHITECTURES = ("llama", "qwen2", "qwen3")  # llama.cpp's names; it treats Mistral as llama
END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")  # of text, turn and message

_INERT = {
    "attention.causal",  # true, or refused
    "rope.scaling.finetuned",
    "tensor_data_layout",
    "vocab_size",
}
# Llama 3.1 and later: all have these values; the file holds only the resulting divisors.
_LLAMA3 = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


class _Metadata:
    """The architecture's own metadata; remembers which keys were read."""

    def __init__(self, metadata: Mapping[str, Any], architecture: str) -> None:
        prefix = f"{architecture}."
        self._values = {
            k.removeprefix(prefix): v for k, v in metadata.items() if k.startswith(prefix)
        }
        self._asked = set(_INERT)

    def get(self, key: str, default: Any = None) -> Any:
        self._asked.add(key)
        value = self._values.get(key, default)
        # Floats are single precision: 1e-05 rather than 9.999999747378752e-06.
        return float(str(np.float32(value))) if isinstance(value, float) else value

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{key} is {value!r}: expected one positive integer for all layers")
        return value

    def rest(self) -> list[str]:
        """Keys that were not read."""
        return sorted(self._values.keys() - self._asked)


def configuration(metadata: Mapping[str, Any], tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The model's configuration from the metadata and tensors (`gguf.ReaderTensor`s by name).

    Raises:
        ValueError: names what the lean engine does not support.
    """
    architecture = metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"general.architecture={architecture!r} is not supported: expected one of "
            f"{', '.join(ARCHITECTURES)}, or the model's checkpoint folder or hub id"
        )
    if metadata.get("split.count", 1) > 1:
        raise ValueError("the model is split over several files: merge them with llama-gguf-split")
    if "token_embd.weight" not in tensors:
        raise ValueError("the file holds no token_embd.weight: it is not a whole model")
    about = _Metadata(metadata, architecture)
    hidden, heads = about.integer("embedding_length"), about.integer("attention.head_count")
    head_dim = about.integer("attention.key_length", hidden // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if about.integer(key, head_dim) != head_dim:
            raise ValueError(f"{key}={about.get(key)} is not supported: expected {head_dim}")
    config = {
        "model_type": architecture,
        "hidden_size": hidden,
        "intermediate_size": about.integer("feed_forward_length"),
        "num_hidden_layers": about.integer("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": about.integer("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": about.integer("context_length"),
        "rms_norm_eps": about.get("attention.layer_norm_rms_epsilon"),
        "rope_parameters": _rope(about, tensors.get("rope_freqs.weight"), head_dim),
        "hidden_act": "silu",
        "vocab_size": int(tensors["token_embd.weight"].shape[1]),
        "tie_word_embeddings": "output.weight" not in tensors,
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": metadata.get("tokenizer.ggml.eos_token_id"),
    }
    if config["rms_norm_eps"] is None:
        raise ValueError("attention.layer_norm_rms_epsilon is missing")
    if architecture == "llama":
        config["mlp_bias"] = "blk.0.ffn_up.bias" in tensors
    if architecture in ("llama", "qwen3"):
        config["attention_bias"] = "blk.0.attn_q.bias" in tensors
    if architecture == "llama" and (window := about.get("attention.sliding_window")):
        config |= {"model_type": "mistral", "sliding_window": window}
    if about.get("attention.causal", True) is not True:
        raise ValueError("attention.causal=false is not supported: it is no text generator")
    if rest := about.rest():
        raise ValueError(f"{architecture}.{rest[0]} is not supported by the lean engine")
    config["architectures"] = [_CLASSES[config["model_type"]]]
    return config


_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


def end_of_text_ids(metadata: Mapping[str, Any]) -> list[int]:
    """The tokens that end a text, according to the file."""
    found = {metadata.get(f"tokenizer.ggml.{key}") for key in END_KEYS}
    return sorted(token for token in found if token is not None)


def _rope(about: _Metadata, factors: Any, head_dim: int) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": about.get("rope.freq_base", 10000.0)}
    kind = about.get("rope.scaling.type", "none")
    factor = about.get("rope.scaling.factor", about.get("rope.scale_linear"))
    if factors is not None:
        return rope | _llama3(factors, rope["rope_theta"], head_dim)
    if kind == "none" or factor is None:
        return rope
    if kind == "linear":
        return rope | {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        original = about.integer("rope.scaling.original_context_length")
        scaled = {"factor": factor, "original_max_position_embeddings": original}
        return rope | {"rope_type": "yarn", **scaled}
    raise ValueError(f"rope.scaling.type={kind!r} is not supported: expected linear or yarn")


def _llama3(tensor: Any, theta: float, head_dim: int) -> dict[str, Any]:
    """Llama 3.1's scaling; the file holds each frequency's divisor."""
    given = torch.from_numpy(np.array(tensor.data, dtype=np.float32))
    factor = float(f"{given.max():.5g}")
    frequencies = theta ** -(torch.arange(0, head_dim, 2) / head_dim)
    turns = _LLAMA3["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    low, high = _LLAMA3["low_freq_factor"], _LLAMA3["high_freq_factor"]
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    expected = 1 / ((1 - smooth) / factor + smooth)
    if given.shape != expected.shape or not torch.allclose(given, expected, rtol=1e-4):
        raise ValueError(
            "rope_freqs.weight is not Llama 3.1's scaling of positions, which alone is supported"
        )
    return {"rope_type": "llama3", "factor": factor, **_LLAMA3}
