"""Random drafters that share a target's embedding, in the folder format of `engine.sharing`."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from adaspec_rl.engine.config_keys import SHARING
from tests.engine.checkpoints import unit_scale


def save_sharing(
    folder: Path,
    target: Path,
    *,
    reads_hidden: bool = False,
    output_tokens: Sequence[int] | None = None,
    layers: int = 1,
    seed: int = 0,
    **changes: object,
) -> Path:
    """Write such a drafter of the `target` checkpoint; `changes` are to its configuration."""
    parsed = AutoConfig.from_pretrained(target, num_hidden_layers=layers, **changes)
    model = AutoModelForCausalLM.from_config(parsed)
    unit_scale(model, seed)
    config = parsed.to_dict()
    shared = ("model.embed_tokens.", "lm_head.")
    tensors = {k: v for k, v in model.state_dict().items() if not k.startswith(shared)}
    hidden = config["hidden_size"]
    generator = torch.Generator().manual_seed(seed)
    if reads_hidden:
        tensors["feature_norm.weight"] = 1 + 0.3 * torch.randn(hidden, generator=generator)
        tensors["feature.weight"] = torch.randn(hidden, hidden, generator=generator) / hidden**0.5
    if output_tokens is not None:
        tensors["output_tokens"] = torch.tensor(sorted(output_tokens), dtype=torch.int32)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors")
    config[SHARING] = {
        "reads_hidden": reads_hidden,
        "output_tokens": None if output_tokens is None else len(output_tokens),
        "shares": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder
