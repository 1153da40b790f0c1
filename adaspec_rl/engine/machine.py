"""The machine that models run on."""

import os
import platform
from pathlib import Path


def cache_folder() -> Path:
    """Where this package keeps files that it can make again."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "adaspec_rl"


def processor(flags: bool = False) -> str:
    """The processor's name, and with `flags` its features."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    wanted = ("model name", "flags", "Features")[: 3 if flags else 1]
    found = [next((line for line in lines if line.startswith(start)), "") for start in wanted]
    named = " ".join(filter(None, (line.partition(":")[2].strip() for line in found)))
    return named or platform.processor() or platform.machine()
