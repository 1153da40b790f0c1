"""Which keys of a configuration are harmless, unknown, or the end of it."""

from typing import Any

import pytest

from adaspec_rl.engine.architecture import Architecture
from adaspec_rl.engine.config_keys import refuse_unusable, unknown_keys

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
HARMLESS = {
    "_attn_implementation": "flash_attention_2",
    "_commit_hash": "4e20de3",
    "_flash_attn_2_enabled": True,
    "_model_name_or_path": "x",
    "_name_or_path": "x",
    "architectures": ["LlamaForCausalLM"],
    "base_model_tp_plan": {"a": "b"},
    "finetuning_task": "x",
    "gradient_checkpointing": True,
    "id2label": {"0": "LABEL_0"},
    "internal_version": "7b",
    "is_decoder": True,
    "is_llama_config": True,
    "keys_to_ignore_at_inference": ["x"],
    "max_sequence_length": 2048,
    "model_max_length": 2048,
    "num_labels": 2,
    "partial_rotary_factor": 1.0,
    "prefix": "x",
    "rope_interleaved": False,
    "sep_token_id": 3,
    "seq_length": 2048,
    "task_specific_params": {"x": 1},
    "temperature": 0.7,
    "tokenizer_class": "LlamaTokenizerFast",
    "torch_dtype": "bfloat16",
    "torchscript": True,
    "transformers.js_config": {"dtype": "q4"},
    "transformers_version": "4.40.0",
    "unk_token_id": 0,
    "unsloth_fixed": True,
    "use_bfloat16": True,
    "use_flash_attn": True,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_harmless_keys_are_silent_and_change_nothing(family: str) -> None:
    plain = {"model_type": family}
    assert unknown_keys(plain | HARMLESS) == []
    assert Architecture.from_config(plain | HARMLESS) == Architecture.from_config(plain)


@pytest.mark.parametrize("family", ["mistral", "qwen2"])
def test_biases_that_a_family_lacks_change_nothing(family: str) -> None:
    plain = {"model_type": family}
    biased = plain | {"attention_bias": True, "mlp_bias": True}
    assert unknown_keys(biased) == ["attention_bias", "mlp_bias"]
    assert Architecture.from_config(biased) == Architecture.from_config(plain)


def test_a_configuration_is_not_edited() -> None:
    config = {"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 2.0}}
    Architecture.from_config(config)
    assert config["rope_scaling"] == {"type": "linear", "factor": 2.0}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"is_causal": False}, "is_causal=false"),
        ({"dual_chunk_attention_config": {"chunk_size": 4}}, "remove it from config.json"),
        ({"per_layer_config": {"0": {"head_dim": 4}}}, "per_layer_config"),
        ({"architectures": ["LlamaForTokenClassification"]}, "writes no text"),
        ({"quantization": {"bits": 4}}, "quantised: use the unquantised checkpoint;"),
        ({"compression_config": {"quant_method": "x"}}, r"quantised \(x\)"),
    ],
)
def test_what_nobody_can_run_is_refused(changes: dict[str, Any], reason: str) -> None:
    for family in (*FAMILIES, "gemma2"):
        with pytest.raises(ValueError, match=reason):
            refuse_unusable({"model_type": family} | changes)


def test_a_quantised_checkpoint_names_the_original_if_it_is_known() -> None:
    config = {"model_type": "llama", "quantization_config": {"quant_method": "awq", "x": [0] * 500}}
    for origin, named in (
        ("meta-llama/Llama-3.1-8B-Instruct", True),
        ("casperhansen/llama-3-8b-instruct-awq", False),
        ("unsloth/llama-3-8b-bnb-4bit", False),
        ("/home/me/model", False),
        (None, False),
    ):
        with pytest.raises(ValueError, match=r"quantised \(awq\)") as error:
            refuse_unusable({**config, "_name_or_path": origin})
        assert (str(origin) in str(error.value)) == named
        assert len(str(error.value)) < 200
    refuse_unusable(config, quantized=True)
