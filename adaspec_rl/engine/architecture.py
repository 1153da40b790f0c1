"""What a configuration says, read strictly: all it asks for is supported or refused by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adaspec_rl.engine.rope import Rope

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")

_USED = {
    "attention_bias",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "layer_types",
    "max_position_embeddings",
    "max_window_layers",
    "mlp_bias",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "original_max_position_embeddings",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "use_sliding_window",
    "vocab_size",
}
# No effect on the forward pass at inference.
_INERT = {
    "_name_or_path",
    "_attn_implementation_autoset",
    "attention_dropout",
    "attn_implementation",
    "initializer_range",
    "pretraining_tp",
    "torch_dtype",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
}


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
    windows: tuple[int | None, ...]  # one a layer: how many tokens it sees, None: all
    tied: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool

    @property
    def layers(self) -> int:
        return len(self.windows)

    @property
    def groups(self) -> int:
        """Query heads that share a key-value head."""
        return self.heads // self.kv_heads

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> "Architecture":
        """Read the contents of a `config.json`.

        Raises:
            ValueError: names the first key that the lean engine does not support.
        """
        family = config.get("model_type")
        if family not in FAMILIES:
            raise ValueError(
                f"model_type={family!r} is not supported by the lean engine: expected one of "
                f"{FAMILIES}, or engine=transformers"
            )
        try:
            return _read(family, config)
        except ValueError as error:
            raise ValueError(f"{family} configuration: {error}; try engine=transformers") from None


def _read(family: str, config: Mapping[str, Any]) -> Architecture:
    _refuse_unknown(config)
    full = _with_defaults(family, config)
    heads, kv_heads = full["num_attention_heads"], full["num_key_value_heads"]
    head_dim = full.get("head_dim") or full["hidden_size"] // heads
    if full["hidden_act"] not in ("silu", "swish"):
        raise ValueError(f"hidden_act={full['hidden_act']!r} is not supported: expected 'silu'")
    if heads % kv_heads:
        raise ValueError(f"num_key_value_heads={kv_heads} does not divide {heads} heads")
    if head_dim % 2:
        raise ValueError(f"head_dim={head_dim} is not supported: expected an even number")
    for key, families in (("attention_bias", ("llama", "qwen3")), ("mlp_bias", ("llama",))):
        if full.get(key) and family not in families:
            raise ValueError(f"{key}=true is not supported: expected it of {families} only")
    bias = bool(full.get("attention_bias"))
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
        rope=Rope.from_config(full["rope_parameters"], context_length),
        windows=_windows(family, full),
        tied=bool(full["tie_word_embeddings"]),
        qkv_bias=bias or family == "qwen2",
        output_bias=bias,
        mlp_bias=bool(full.get("mlp_bias")),
        qk_norm=family == "qwen3",
    )


def _refuse_unknown(config: Mapping[str, Any]) -> None:
    from transformers import GenerationConfig, PreTrainedConfig  # slow to import

    known = _USED | _INERT | PreTrainedConfig().to_dict().keys()
    known |= GenerationConfig().to_dict().keys()  # old configurations hold these, too
    for key in sorted(config.keys() - known):
        if config[key]:  # false, null and empty ask for nothing
            raise ValueError(f"{key}={config[key]!r} is not supported")


def _with_defaults(family: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with transformers' defaults, in its newest spelling."""
    from transformers import AutoConfig

    values = {key: value for key, value in config.items() if key != "model_type"}
    try:
        full: dict[str, Any] = AutoConfig.for_model(family, **values).to_dict()
    except Exception as error:  # its validators raise classes of their own
        raise ValueError(" ".join(str(error).split())) from None
    return full


def _windows(family: str, full: Mapping[str, Any]) -> tuple[int | None, ...]:
    layers: int = full["num_hidden_layers"]
    window: int | None = full.get("sliding_window")
    types: list[str] = full.get("layer_types") or []
    if family == "llama":
        if window or any(kind != "full_attention" for kind in types):
            raise ValueError(f"sliding_window={window!r} is not supported in this family")
        return (None,) * layers
    if family == "mistral":
        if len(set(types)) > 1:
            raise ValueError(f"layer_types={types!r} is not supported: expected one kind of layer")
        return (window,) * layers
    for kind in types:
        if kind not in ("full_attention", "sliding_attention"):
            raise ValueError(f"layer_types holds {kind!r}, which is not supported")
        if kind == "sliding_attention" and not window:
            raise ValueError(f"layer_types holds {kind!r} but sliding_window={window!r}")
    return tuple(window if kind == "sliding_attention" else None for kind in types)
