"""Small random checkpoints, made by transformers' own classes."""

from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCAB = 61
CONTEXT = 128


def new_model(model_type: str, seed: int = 0, **config: Any) -> PreTrainedModel:
    """Weights of unit scale, biases and norms included, so that no term can be left out unseen."""
    ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(model_type, **{"vocab_size": VOCAB, **ids, **config})
    ).eval()
    unit_scale(model, seed)
    return model


def unit_scale(model: PreTrainedModel, seed: int = 0) -> None:
    """Fill the weights with noise of unit scale, around 1 where they are those of a norm."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.2 * noise if parameter.dim() > 1 else parameter + 0.3 * noise)


def spoil(model: PreTrainedModel, token: int, value: float = float("nan")) -> None:
    """Make a forward pass over `token` go wrong."""
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, torch.nn.Embedding)
    with torch.no_grad():
        embedding.weight[token] = value


def save(model: PreTrainedModel, folder: Path, **options: Any) -> Path:
    model.save_pretrained(folder, **options)
    return folder


def random_tokens(batch: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, VOCAB, (batch, width), generator=torch.Generator().manual_seed(seed))


def reference(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    """Transformers' logits `[B, W, V]`, without a cache."""
    with torch.inference_mode():
        return model(tokens).logits.float()


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    assert actual.shape == expected.shape
    return float((actual - expected).abs().max() / expected.abs().max())


ROPES = st.one_of(
    st.just({"rope_type": "default", "rope_theta": 1e4}),
    st.builds(
        lambda kind, factor: {"rope_type": kind, "rope_theta": 5e3, "factor": factor},
        st.sampled_from(["linear", "dynamic"]),
        st.sampled_from([1.0, 2.5]),
    ),
    st.builds(
        lambda factor, extra: {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": factor,
            "original_max_position_embeddings": 32,
            **extra,
        },
        st.sampled_from([1.0, 4.0]),
        st.sampled_from(
            [
                {},
                {"attention_factor": 1.3},
                {"mscale": 1.2, "mscale_all_dim": 0.7},
                {"truncate": False, "beta_fast": 20.0, "beta_slow": 2.0},
            ]
        ),
    ),
    st.just(
        {
            "rope_type": "llama3",
            "rope_theta": 1e4,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    ),
)


@st.composite
def lean_configs(draw: st.DrawFn) -> dict[str, Any]:
    """Configurations of the families that the lean engine runs."""
    family = draw(st.sampled_from(["llama", "mistral", "qwen2", "qwen3"]))
    kv_heads = draw(st.sampled_from([1, 2]))
    heads = kv_heads * draw(st.sampled_from([1, 2, 3]))
    config: dict[str, Any] = {
        "model_type": family,
        "hidden_size": heads * draw(st.sampled_from([8, 12])),
        "intermediate_size": draw(st.sampled_from([20, 48])),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": draw(st.sampled_from([1e-6, 1e-3])),
        "tie_word_embeddings": draw(st.booleans()),
        "rope_parameters": draw(ROPES),
    }
    if family != "qwen2" and draw(st.booleans()):
        config["head_dim"] = draw(st.sampled_from([6, 16]))
    if family in ("llama", "qwen3"):
        config["attention_bias"] = draw(st.booleans())
    if family == "llama":
        config["mlp_bias"] = draw(st.booleans())
    if family == "mistral":
        config["sliding_window"] = draw(st.sampled_from([None, 5, 40]))
    if family.startswith("qwen") and draw(st.booleans()):
        layers = config["num_hidden_layers"]
        config |= {"use_sliding_window": True, "sliding_window": draw(st.sampled_from([4, 30]))}
        config["max_window_layers"] = draw(st.integers(0, layers))
    return config
