"""Reads a configuration for the lean engine, or refuses it and names what is unsupported."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from adaspec_rl.engine.config_keys import refuse_unusable
from adaspec_rl.engine.rope import Rope

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")

_COUNTS = (
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "vocab_size",
)
_BIASED = {"attention_bias": ("llama", "qwen3"), "mlp_bias": ("llama",)}


class UnsupportedError(ValueError):
    """The lean engine lacks something that transformers' own forward pass may support."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """A decoder-only transformer with RMSNorm, RoPE and a SwiGLU feed-forward."""

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    context_length: int
    norm_eps: float
    rope: Rope
    windows: tuple[int | None, ...]  # one per layer: how many tokens it sees; None: all
    tied: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    reads_features: bool = False  # besides tokens: hidden states of another model

    @property
    def layers(self) -> int:
        return len(self.windows)

    @property
    def groups(self) -> int:
        """Query heads that share a key-value head."""
        return self.heads // self.kv_heads

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> "Architecture":
        """Read the contents of a `config.json`; keys that its family does not declare are ignored.

        Raises:
            UnsupportedError: names what the lean engine does not support.
            ValueError: no engine can run this, or the configuration contradicts itself.
        """
        refuse_unusable(config)
        family = config["model_type"]
        if family not in FAMILIES:
            raise UnsupportedError(
                f"model_type={family!r} is not supported by the lean engine: expected one of "
                f"{FAMILIES}, or engine=transformers"
            )
        try:
            return _read(family, config)
        except ValueError as error:
            kind, hint = ValueError, ""
            if isinstance(error, UnsupportedError):
                kind, hint = UnsupportedError, "; try engine=transformers"
            raise kind(f"{family} configuration: {error}{hint}") from None


def _read(family: str, config: Mapping[str, Any]) -> Architecture:
    full = _with_defaults(family, config)
    for key in _COUNTS:
        if full[key] < 1:
            raise ValueError(f"{key}={full[key]} is no size: expected at least 1")
    heads, kv_heads = full["num_attention_heads"], full["num_key_value_heads"]
    head_dim = full.get("head_dim") or full["hidden_size"] // heads
    if full["hidden_act"] not in ("silu", "swish"):
        raise UnsupportedError(
            f"hidden_act={full['hidden_act']!r} is not supported: expected 'silu'"
        )
    if heads % kv_heads:
        raise ValueError(f"num_key_value_heads={kv_heads} does not divide {heads} heads")
    if head_dim % 2:
        raise ValueError(f"head_dim={head_dim} is not supported: expected an even number")
    biased = {key: family in where and bool(full.get(key)) for key, where in _BIASED.items()}
    context_length = full["max_position_embeddings"]
    return Architecture(
        family=family,
        vocab_size=full["vocab_size"],
        hidden_size=full["hidden_size"],
        intermediate_size=full["intermediate_size"],
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        context_length=context_length,
        norm_eps=full["rms_norm_eps"],
        rope=_rope(full["rope_parameters"], context_length),
        windows=_windows(family, full),
        tied=bool(full["tie_word_embeddings"]),
        qkv_bias=biased["attention_bias"] or family == "qwen2",
        output_bias=biased["attention_bias"],
        mlp_bias=biased["mlp_bias"],
        qk_norm=family == "qwen3",
    )


def _with_defaults(family: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with transformers' defaults, in its newest spelling."""
    from transformers import AutoConfig

    values = {key: deepcopy(config[key]) for key in config if key != "model_type"}  # it edits them
    try:
        full: dict[str, Any] = AutoConfig.for_model(family, **values).to_dict()
    except Exception as error:  # its validators raise classes of their own
        raise ValueError(" ".join(str(error).split())[:200]) from None
    return full


def _rope(parameters: Mapping[str, Any], context_length: int) -> Rope:
    try:
        return Rope.from_config(parameters, context_length)
    except ValueError as error:
        raise UnsupportedError(str(error)) from None


def _windows(family: str, full: Mapping[str, Any]) -> tuple[int | None, ...]:
    layers: int = full["num_hidden_layers"]
    window: int | None = full.get("sliding_window")
    if family == "llama":
        return (None,) * layers
    if family == "mistral":
        return (window,) * layers
    types: list[str] = full["layer_types"]
    for kind in types:
        if kind not in ("full_attention", "sliding_attention"):
            raise UnsupportedError(f"layer_types holds {kind!r}, which is not supported")
        if kind == "sliding_attention" and not window:
            raise ValueError(f"layer_types holds {kind!r} but sliding_window={window!r}")
    return tuple(window if kind == "sliding_attention" else None for kind in types)
