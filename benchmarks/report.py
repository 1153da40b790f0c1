"""How every benchmark ends: one `name: value` line a figure, and the same as JSON."""

import json
import platform
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from adaspec_rl.replay.cost_profile import device_name
from adaspec_rl.training.bundle import package_versions


def finish(
    figures: Mapping[str, float],
    path: Path | None,
    *,
    device: torch.device = torch.device("cpu"),
    details: Mapping[str, Any] | None = None,
) -> None:
    """Print the figures and, if `path` is given, write them with device, versions and command."""
    for name, value in figures.items():
        print(f"{name}: {value:.4g}")
    if path:
        command = shlex.join(["python", *sys.argv])
        content = {
            "command": command,
            "device": device_name(device),
            "python": platform.python_version(),
            "versions": package_versions(),
            "figures": dict(figures),
            **(details or {}),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n")
