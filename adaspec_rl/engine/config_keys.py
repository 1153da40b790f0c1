"""Keys of a `config.json`: which ones no engine can run, are harmless, or are unknown."""

import re
from collections.abc import Mapping
from typing import Any

from adaspec_rl.engine.rope import ROPE_KEYS

_QUANTIZED = ("quantization_config", "quantization", "compression_config")
_NO_LANGUAGE_MODEL = re.compile(
    "For(SequenceClassification|TokenClassification|QuestionAnswering|MultipleChoice|MaskedLM|"
    "PreTraining|RewardModel)|RewardModel|ForReward"
)
_HUB_ID = re.compile(r"[\w\-][\w\-.]*/[\w\-][\w\-.]*")
_QUANTIZED_NAME = re.compile(r"bnb|gptq|awq|gguf|mxfp|\bfp8|w\d+a\d+|int[48]|\d-?bits?|quant", re.I)
# What tools leave in a configuration, and what transformers' own base class once declared.
_HARMLESS = {
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_commit_hash",
    "_flash_attn_2_enabled",
    "_model_name_or_path",
    "_name_or_path",
    "_rope_scaling_validation",
    "add_cross_attention",
    "attn_implementation",
    "base_model_ep_plan",
    "base_model_pp_plan",
    "base_model_tp_plan",
    "cross_attention_hidden_size",
    "finetuning_task",
    "gradient_checkpointing",
    "internal_version",
    "is_decoder",
    "is_llama_config",
    "keys_to_ignore_at_inference",
    "max_sequence_length",
    "model_max_length",
    "name_or_path",
    "num_labels",
    "prefix",
    "pretraining_tp",
    "seq_length",
    "sep_token_id",
    "task_specific_params",
    "tie_encoder_decoder",
    "tokenizer_class",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_flash_attn",
}
# Old spellings of `rope_parameters`, and what transformers reads without declaring it.
_READ = {
    "head_dim",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "rope_scaling",
    "rope_theta",
}

SHARING = "adaspec_drafter"  # in drafters that share their target's embedding: `engine.sharing`
_ROPE_KEYS = ROPE_KEYS | {"type", "partial_rotary_factor"}


def refuse_unusable(config: Mapping[str, Any], *, quantized: bool = False) -> None:
    """Refuse configurations that no engine can decode as intended.

    Args:
        config: the contents of a `config.json`.
        quantized: let a quantised checkpoint pass, for transformers to try.

    Raises:
        ValueError: says what the checkpoint is and what to use instead.
    """
    family = config.get("model_type")
    if not isinstance(family, str):
        raise ValueError(f"config.json has model_type={family!r}: expected a name such as 'llama'")
    named = config.get("architectures")
    named = named if isinstance(named, list) else []
    if named and all(_NO_LANGUAGE_MODEL.search(str(name)) for name in named):
        raise ValueError(
            f"the checkpoint is a {named[0]}, which writes no text: expected a causal language "
            "model such as LlamaForCausalLM"
        )
    if config.get("is_causal") is False:
        raise ValueError(
            f"is_causal=false in this {family} configuration: each token sees those after it, so "
            "that it cannot write token by token; expected a causal language model"
        )
    if chunks := config.get("dual_chunk_attention_config"):
        known = chunks.get("original_max_position_embeddings") if isinstance(chunks, dict) else None
        reach = f"up to {known} tokens" if known else "on short texts"
        raise ValueError(
            "dual_chunk_attention_config is not supported: remove it from config.json for plain "
            f"attention, which is the same {reach}"
        )
    if config.get(SHARING) is not None:
        raise ValueError(
            "the checkpoint is a drafter without an embedding of its own: name it among "
            "model.drafters, beside the target that it was made for"
        )
    if config.get("per_layer_config"):
        raise ValueError("per_layer_config is not supported: expected layers of one shape")
    if not quantized and is_quantized(config):
        raise ValueError(quantized_sentence(config))


def is_quantized(config: Mapping[str, Any]) -> bool:
    """Whether the weights are stored in a form that only their own kernels read."""
    return any(config.get(key) for key in _QUANTIZED)


def quantized_sentence(config: Mapping[str, Any]) -> str:
    """The error message for a quantised checkpoint; names the original if it is known."""
    values = next(config[key] for key in _QUANTIZED if config.get(key))
    method = values.get("quant_method") if isinstance(values, dict) else None
    origin = config.get("_name_or_path")
    known = (
        isinstance(origin, str)
        and _HUB_ID.fullmatch(origin) is not None
        and not _QUANTIZED_NAME.search(origin)
    )
    return (
        f"the checkpoint is quantised{f' ({method})' if method else ''}: use the unquantised "
        f"checkpoint{f' {origin}' if known else ''}; model.quantize=int8 can make it smaller"
    )


def unknown_keys(config: Mapping[str, Any]) -> list[str]:
    """Keys with a value that transformers' class of this family does not declare.

    Its forward pass cannot depend on them; whether the checkpoint's author meant it to is unknown.
    """
    from transformers import AutoConfig, GenerationConfig  # slow to import

    declared = AutoConfig.for_model(config["model_type"]).to_dict().keys()
    sampling = GenerationConfig().to_dict().keys()  # old configurations hold these, too
    known = _HARMLESS | _READ | declared | sampling
    unknown = [key for key in config.keys() - known if config[key]]  # null, false: ask for nothing
    for name in ("rope_parameters", "rope_scaling"):
        rope = config.get(name) or {}
        unknown += [f"{name}.{key}" for key in rope.keys() - _ROPE_KEYS if rope[key]]
    return sorted(unknown)
