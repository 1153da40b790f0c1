"""Small random transformers models of many families, and drafters that are often right."""

import copy
from functools import cache

import torch
from transformers import PreTrainedModel

from tests.engine.checkpoints import VOCAB, new_model

_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
_MULTI_HEAD = {**_SHAPE, "num_key_value_heads": 4}
FAMILIES = {
    "llama": _SHAPE,
    "mistral": {**_SHAPE, "sliding_window": 7},
    "qwen2": _SHAPE,
    "qwen3": {**_SHAPE, "head_dim": 8},
    "gemma2": {**_SHAPE, "head_dim": 8, "sliding_window": 9},
    "phi3": _SHAPE,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "gpt_neox": _MULTI_HEAD,
    "opt": {
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
    },
}
LEAN = ("llama", "mistral", "qwen2", "qwen3")


def fresh(family: str, seed: int = 0) -> PreTrainedModel:
    """A model with large logits, so that rounding decides nothing."""
    model = new_model(family, seed, **FAMILIES[family])
    if not model.config.tie_word_embeddings:
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(3.0)
    return model


@cache
def model_of(family: str) -> PreTrainedModel:
    """The family's model; not to be changed."""
    return fresh(family)


@cache
def drafter_of(family: str) -> PreTrainedModel:
    """A model that is right about every second time."""
    made = copy.deepcopy(fresh(family))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in made.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += 0.15 * parameter.std() * noise
    return made


def prompts(rows: int, width: int = 9, padding: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids `[rows, width]` padded on the left, and their mask."""
    tokens = torch.randint(3, VOCAB, (rows, width), generator=torch.Generator().manual_seed(rows))
    mask = torch.ones_like(tokens)
    for row in range(1, rows):
        mask[row, : min(row * 2, width - 1)] = 0
    return tokens.masked_fill(mask == 0, padding), mask
