"""A trained drafter that shares its target's embeddings, as files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from adaspec_rl.engine.architecture import Architecture
from adaspec_rl.engine.checkpoint import Checkpoint
from adaspec_rl.engine.config_keys import SHARING
from adaspec_rl.engine.sharing import OUTPUT
from adaspec_rl.engine.weights import tensors_in
from adaspec_rl.files import write_atomically
from adaspec_rl.tools.distillation.teacher_texts import TeacherText


@dataclass(frozen=True, slots=True)
class WrittenDrafter:
    """A drafter that an earlier training wrote."""

    tensors: dict[str, torch.Tensor]  # by their names in a checkpoint
    output_tokens: np.ndarray | None  # ascending; None: all


def read_drafter(
    checkpoint: Checkpoint, config: Mapping[str, Any], *, reads_hidden: bool, count: int | None
) -> WrittenDrafter:
    """Read a drafter of this kind that `write_drafter` wrote.

    Args:
        config: the target's, with the drafter's number of layers.
        count: the number of tokens that it can output; None: all.

    Raises:
        ValueError: the drafter is of another kind, or belongs to another target.
    """
    found = checkpoint.config()
    wanted = {**config, SHARING: _about(reads_hidden, count)}
    for key in (SHARING, "num_hidden_layers"):
        if found.get(key) != wanted[key]:
            raise ValueError(
                f"{checkpoint.source} has {key}={found.get(key)!r}, but the settings mean "
                f"{wanted[key]!r}: set them as they were when it was trained"
            )
    plain = {key: value for key, value in found.items() if key != SHARING}
    if Architecture.from_config(plain) != Architecture.from_config(config):
        raise ValueError(f"{checkpoint.source} is a drafter of another target")
    tensors = dict(tensors_in(checkpoint.weight_files()))
    rows = tensors.pop(OUTPUT, None)
    return WrittenDrafter(tensors, None if rows is None else rows.numpy())


def write_drafter(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    *,
    reads_hidden: bool,
    output_tokens: np.ndarray | None,
    dtype: torch.dtype,
) -> None:
    """Write `config.json` and `model.safetensors` as `engine.sharing` reads them.

    Args:
        config: the target's, with the drafter's number of layers.
        tensors: by their names in a checkpoint, without embedding and head.
        output_tokens: the tokens that the drafter can output, ascending; None: all.
    """
    about = _about(reads_hidden, None if output_tokens is None else len(output_tokens))
    stored = {name: tensor.to(dtype).contiguous().cpu() for name, tensor in tensors.items()}
    if output_tokens is not None:
        stored[OUTPUT] = torch.from_numpy(output_tokens.astype(np.int32))
    ordered = {name: stored[name] for name in sorted(stored)}
    write_atomically(folder / "model.safetensors", save(ordered, {"format": "pt"}))
    write_atomically(
        folder / "config.json", json.dumps({**config, SHARING: about}, indent=2) + "\n"
    )


def _about(reads_hidden: bool, count: int | None) -> dict[str, bool | int | None]:
    return {"reads_hidden": reads_hidden, "output_tokens": count, "shares": True}


def frequent_tokens(texts: Sequence[TeacherText], count: int, vocab_size: int) -> np.ndarray:
    """The `count` tokens that the target is likeliest to write in `texts`, ascending.

    Tokens count by their probabilities, not by how often they were drawn; ties go to lower ids.
    """
    mass = np.zeros(vocab_size)
    for text in texts:
        chances = np.exp(text.choice_log_probs.astype(np.float32))
        mass += np.bincount(text.choice_ids.ravel(), chances.ravel(), minlength=vocab_size)
    return np.sort(np.argsort(-mass, kind="stable")[:count])
