"""Random drafters that share a target's embedding, in the folder format of `engine.sharing`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from adaspec_rl.decoding.drafters import DraftModel
from adaspec_rl.engine.checkpoint import Checkpoint
from adaspec_rl.engine.config_keys import SHARING
from adaspec_rl.engine.lean_model import LeanModel
from adaspec_rl.engine.load_options import LoadOptions
from adaspec_rl.engine.loading import load_model
from adaspec_rl.engine.sharing import load_sharing
from adaspec_rl.pairs.pair import draft_model
from tests.engine.checkpoints import new_model, save, unit_scale


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


SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
TOKENS = [*range(0, 40), 44, 45, 57, 60]  # of a trimmed output
KINDS: dict[str, dict[str, Any]] = {
    "trimmed": {"output_tokens": TOKENS},
    "hidden": {"reads_hidden": True},
    "trimmed hidden": {"reads_hidden": True, "output_tokens": TOKENS},
}


def sharing_drafters(
    folder: Path, kinds: Sequence[str] = tuple(KINDS), *, device: str = "cpu", **options: Any
) -> tuple[LeanModel, list[DraftModel]]:
    """A random target and drafters of it; `options` are `LoadOptions`'."""
    checkpoint = save(new_model("llama", **SHAPE), folder / "target")
    target = load_model(checkpoint, LoadOptions(device=device, **options))
    assert isinstance(target, LeanModel)
    made: list[DraftModel] = []
    for number, kind in enumerate(kinds):
        own = save_sharing(folder / kind, checkpoint, seed=number + 1, **KINDS[kind])
        model = load_sharing(Checkpoint(own), target, name=kind)
        made.append(draft_model(model, target))
    return target, made
