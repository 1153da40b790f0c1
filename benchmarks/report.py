"""The end of every benchmark: one `name: value` line per figure, and the same as JSON."""

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from adaspec_rl.costs.profile import device_name
from adaspec_rl.training.bundle import package_versions

FLAGS = (
    "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8",
    "asimd", "asimddp", "bf16", "i8mm", "sve",
)  # fmt: skip


def machine() -> dict[str, Any]:
    """The processor, its flags that affect matrix products, and the threads in use."""
    info = Path("/proc/cpuinfo")
    lines = [line.partition(":") for line in info.read_text().splitlines()] if info.exists() else []
    about = {name.strip().lower(): value.strip() for name, _, value in lines}
    flags = (about.get("flags") or about.get("features") or "").split()
    return {
        "processor": about.get("model name") or platform.processor() or platform.machine(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def about(device: torch.device) -> dict[str, Any]:
    """The command, the device and the versions."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "device": device_name(device),
        "machine": machine(),
        "python": platform.python_version(),
        "versions": package_versions(),
    }


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
    save(figures, path, device=device, details=details)


def save(
    figures: Mapping[str, float],
    path: Path | None,
    *,
    device: torch.device = torch.device("cpu"),
    details: Mapping[str, Any] | None = None,
) -> None:
    """If `path` is given, write the figures with device, versions and command."""
    if path:
        content = {**about(device), "figures": dict(figures), **(details or {})}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n")
