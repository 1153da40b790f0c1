"""Configurations as they are found on the hub: each loads exactly, or is refused for its reason.

They are read by path from beside the project. Sizes are scaled down and weights are random; all
else, spelling included, is as published.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from adaspec_rl.engine.lean_model import LeanModel
from adaspec_rl.engine.loading import load_model
from adaspec_rl.engine.transformers_model import TransformersModel
from tests.engine.checkpoints import VOCAB, random_tokens, reference, relative_error, unit_scale

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "configs"
FILES = sorted(path.name for path in FOLDER.glob("*.json"))
if not FILES:
    pytest.skip("../shared/data has no configs", allow_module_level=True)

REFUSED = {
    "LlamaForSequenceClassification_reward.json": "LlamaForSequenceClassification.*writes no text",
    "Mistral-Small-3.1-24B_wrapped.json": "'mistral3' is a multimodal model .* type 'mistral'",
    "Qwen2.5-7B-Instruct-1M.json": "dual_chunk_attention_config.*up to 262144 tokens",
    "Qwen2.5-7B-Instruct-AWQ.json": r"quantised \(awq\): use the unquantised checkpoint",
    "Qwen3-8B-FP8.json": r"quantised \(fp8\): use the unquantised checkpoint",
    "Qwen3-Next-80B-A3B.json": r"recurrent state \(linear_attention\)",
    "TheBloke_Llama-2-7B-Chat-GPTQ.json": r"quantised \(gptq\): use the unquantised checkpoint",
    "bloom-560m.json": "how many tokens the model reads: add .max_position_embeddings",
    "gpt-oss-20b.json": r"quantised \(mxfp4\): use the unquantised checkpoint",
    "gte-Qwen2-1.5B-instruct.json": "is_causal=false.*sees those after it",
    "mlx-community_Llama-3.2-1B-Instruct-4bit.json": "quantised: use the unquantised checkpoint",
    "neuralmagic_Meta-Llama-3.1-8B-Instruct-FP8.json": r"quantised \(compressed-tensors\)",
    "tt_Devstral-2-123B-Instruct.json": r"quantised \(fp8\): use the unquantised checkpoint",
    "tt_Qwen2.5-VL-7B-Instruct.json": "'qwen2_5_vl' is a multimodal model",
    "tt_Qwen3.5-9B.json": r"recurrent state \(linear_attention\)",
    "unsloth_llama-3-8b-bnb-4bit.json": r"quantised \(bitsandbytes\): use the unquantised",
}
THROUGH_TRANSFORMERS = {
    "SmolLM3-3B.json",
    "exaone-3.5-2.4b.json",
    "gemma-3-4b-it_wrapped.json",
    "granite-3.1-2b-instruct.json",
    "internlm3-8b-instruct.json",
    "llmss_Mixtral-8x7B-v0.1.json",
    "llmss_Phi-mini-MoE-instruct.json",
    "llmss_Qwen3-30B-A3B-Instruct-2507.json",
    "opt-125m.json",
    "pythia-160m.json",
    "tm_gemma-2-9b-it.json",
    "tt_EXAONE-4.0-32B.json",
    "tt_Olmo-3.1-32B-Instruct.json",
    "tt_phi-1.json",
    "tt_phi-4.json",
}
IN_DOUBT = {  # keys that transformers' class does not know, which a check of the logits settles
    "Yarn-Mistral-7b-128k.json": "auto_map, rope_scaling.finetuned",
    "togethercomputer_Llama-2-7B-32K-Instruct.json": "auto_map",
}

HEAD_DIM, LAYERS, WINDOW = 8, 4, 6
SIZES = {
    "ffn_dim": 48,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "rotary_dim": HEAD_DIM // 2,
    "sliding_window": WINDOW,
    "vocab_size": VOCAB,
}
AT_MOST = {"num_experts_per_tok": 2, "image_size": 28, "patch_size": 14, "mm_tokens_per_image": 1}
OF_LAYERS = ("num_hidden_layers", "num_layers", "n_layer")


def scaled_down(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with the proportions of `config`: heads, groups, windows, kinds of layers."""
    layers = max((config.get(key) or 0 for key in OF_LAYERS), default=0)
    small: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and key.endswith("_config"):
            value = scaled_down(value)
            if key == "text_config":  # where the defaults are large
                value = {"vocab_size": VOCAB, "head_dim": HEAD_DIM, **value}
        elif isinstance(value, list) and layers and len(value) == layers:
            value = value[:LAYERS]
        elif key in OF_LAYERS:
            value = min(value, LAYERS)
        elif key in SIZES and value is not None:
            value = SIZES[key]
        elif key in AT_MOST:
            value = min(value, AT_MOST[key])
        elif key.endswith(("token_id", "token_index")) and isinstance(value, int) and value > 0:
            value %= VOCAB
        small[key] = value
    return small | _small_heads(config)


def _small_heads(config: dict[str, Any]) -> dict[str, Any]:
    heads = config.get("num_attention_heads")
    if heads is None:
        return {"hidden_size": 64} if "hidden_size" in config else {}
    kv_heads = config.get("num_key_value_heads") or heads
    groups, kv_heads = heads // kv_heads, min(kv_heads, 2)
    small = {"num_attention_heads": groups * kv_heads}
    if "num_key_value_heads" in config:
        small["num_key_value_heads"] = kv_heads
    if config.get("head_dim"):
        small["head_dim"] = HEAD_DIM
    hidden = config.get("hidden_size", 0)
    ratio = hidden / (heads * (config.get("head_dim") or hidden // heads or 1))
    width = groups * kv_heads * max(1, round(HEAD_DIM * ratio))
    sizes = ("hidden_size", "n_embed", "word_embed_proj_dim")
    return small | {key: width for key in sizes if key in config}


def checkpoint(folder: Path, name: str, **changes: Any) -> PreTrainedModel:
    """Random weights of the scaled-down configuration, beside it in its own spelling."""
    path = folder / "config.json"
    path.write_text(json.dumps(scaled_down(json.loads((FOLDER / name).read_text())) | changes))
    text = path.read_text()
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False
    )
    unit_scale(model.eval())
    model.save_pretrained(folder)
    path.write_text(text)
    return model


@pytest.mark.parametrize("name", [name for name in FILES if name not in REFUSED])
def test_found_configurations_load_exactly(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = checkpoint(tmp_path, name)
    caplog.clear()
    ours = load_model(tmp_path)
    wanted = TransformersModel if name in THROUGH_TRANSFORMERS else LeanModel
    assert type(ours) is wanted
    said = [record.message for record in caplog.records if record.name.startswith("adaspec")]
    assert len(said) == (name in THROUGH_TRANSFORMERS or name in IN_DOUBT)
    assert IN_DOUBT.get(name, "") in "".join(said)
    tokens = random_tokens(1, 30)
    expected = reference(theirs, tokens)
    ours.prefill(tokens[:, :20])
    parts = [ours.extend(tokens[:, start:stop]) for start, stop in ((20, 24), (24, 25), (25, 30))]
    assert relative_error(torch.cat(parts, dim=1), expected[:, 20:]) <= 1e-4
    ours.rollback(0)
    assert relative_error(ours.extend(tokens), expected) <= 1e-4


@pytest.mark.parametrize(("name", "reason"), REFUSED.items())
def test_found_configurations_are_refused_for_their_reason(
    name: str, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    config = scaled_down(json.loads((FOLDER / name).read_text()))
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=reason) as error:
        load_model(tmp_path)
    assert len(str(error.value)) < 300 and "\n" not in str(error.value)


def test_a_model_without_positions_runs_once_its_length_is_given(tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path, "bloom-560m.json", max_position_embeddings=40)
    ours, tokens = load_model(tmp_path), random_tokens(1, 30)
    assert ours.context_length == 40
    assert relative_error(ours.extend(tokens), reference(theirs, tokens)) <= 1e-4
