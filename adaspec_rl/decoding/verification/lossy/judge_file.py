"""A judge as a folder: `judge.safetensors` and `judge.json`; nothing in it is executed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from adaspec_rl import strict_json
from adaspec_rl.decoding.verification.lossy.judge import Judge
from adaspec_rl.files import new_folder

SCHEMA = 1
WEIGHTS, DESCRIPTION = "judge.safetensors", "judge.json"
ARRAYS = ("weights", "mean", "scale")


@dataclass(frozen=True, slots=True)
class _Description:
    schema: int
    pair: str
    fingerprint: str
    drafter: str
    bias: float
    threshold: float
    training: dict[str, Any]


def save_judge(judge: Judge, training: Mapping[str, Any], folder: Path) -> None:
    """Write `judge` to `folder`, together with a record of its training."""
    description = {
        "schema": SCHEMA,
        "pair": judge.pair,
        "fingerprint": judge.fingerprint,
        "drafter": judge.drafter,
        "bias": judge.bias,
        "threshold": judge.threshold,
        "training": dict(training),
    }
    with new_folder(folder) as fresh:
        arrays = {name: getattr(judge, name).contiguous() for name in ARRAYS}
        (fresh / WEIGHTS).write_bytes(save(arrays))
        (fresh / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")


def load_judge(folder: Path) -> Judge:
    """Read and check a judge.

    Raises:
        ValueError: one sentence on what is missing, damaged, or of another version.
    """
    for name in (WEIGHTS, DESCRIPTION):
        if not (folder / name).is_file():
            raise ValueError(
                f"{folder} holds no judge (it has no {name}): train one with "
                "python -m adaspec_rl.tools.judge"
            )
    content = strict_json.read(folder / DESCRIPTION, f"{folder / DESCRIPTION}")
    try:
        about = strict_json.typed(_Description, content)
        if about.schema != SCHEMA:
            raise ValueError(f"it has schema {about.schema} but this version reads {SCHEMA}")
        arrays = load((folder / WEIGHTS).read_bytes())
        return Judge(
            **_arrays(arrays),
            bias=about.bias,
            drafter=about.drafter,
            fingerprint=about.fingerprint,
            pair=about.pair,
            threshold=about.threshold,
        )
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"the judge {folder} cannot be used: {error}") from None


def _arrays(found: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if set(found) != set(ARRAYS):
        raise ValueError(
            f"{WEIGHTS} has the arrays {', '.join(sorted(found)) or 'none'}: expected "
            f"{', '.join(ARRAYS)}"
        )
    sizes = {tuple(array.shape) for array in found.values()}
    if len(sizes) > 1 or any(len(size) != 1 for size in sizes):
        raise ValueError(f"{WEIGHTS} has shapes {sorted(sizes)}: expected one length for all")
    for name, array in found.items():
        if array.dtype != torch.float32 or not array.isfinite().all():
            raise ValueError(f"{name} in {WEIGHTS} is not finite float32")
    if (found["scale"] <= 0).any():
        raise ValueError(f"scale in {WEIGHTS} has numbers that are not above 0")
    return dict(found)
