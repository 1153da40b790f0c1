"""A trained drafter that shares its target's embeddings, as files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from adaspec_rl.engine.config_keys import SHARING
from adaspec_rl.files import write_atomically
from adaspec_rl.pairs.teacher_texts import TeacherText


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
        output_tokens: those that the drafter can output, ascending; None: all.
    """
    count = None if output_tokens is None else len(output_tokens)
    about = {"reads_hidden": reads_hidden, "output_tokens": count, "shares": True}
    stored = {name: tensor.to(dtype).contiguous().cpu() for name, tensor in tensors.items()}
    if output_tokens is not None:
        stored["output_tokens"] = torch.from_numpy(output_tokens.astype(np.int32))
    ordered = {name: stored[name] for name in sorted(stored)}
    write_atomically(folder / "model.safetensors", save(ordered, {"format": "pt"}))
    write_atomically(
        folder / "config.json", json.dumps({**config, SHARING: about}, indent=2) + "\n"
    )


def frequent_tokens(texts: Sequence[TeacherText], count: int, vocab_size: int) -> np.ndarray:
    """The `count` tokens that the target is likeliest to write in `texts`, ascending.

    Tokens count by their probabilities, not by what was drawn; of equals, the lower ids come first.
    """
    mass = np.zeros(vocab_size)
    for text in texts:
        chances = np.exp(text.choice_log_probs.astype(np.float32))
        mass += np.bincount(text.choice_ids.ravel(), chances.ravel(), minlength=vocab_size)
    return np.sort(np.argsort(-mass, kind="stable")[:count])
