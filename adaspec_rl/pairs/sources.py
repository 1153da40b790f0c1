"""Where models come from: folders, GGUF files, the hub, and the package itself."""

from pathlib import Path

from adaspec_rl.engine.checkpoint import Checkpoint
from adaspec_rl.pairs.smollm2 import smollm2

EMBEDDED = Path(__file__).parent / "tiny"
SHIPPED = ("tiny", "smollm2")  # folders beside this file, of models that come with the package


def checkpoint_of(source: str) -> Checkpoint:
    """The checkpoint of a folder, a GGUF file, a hub id, `tiny:NAME`, `smollm2` or `smollm2:NAME`.

    Raises:
        ValueError: there is no such model.
    """
    if source == "smollm2":
        return Checkpoint(smollm2())
    family, colon, _ = source.partition(":")
    return Checkpoint(_embedded(source) if colon and family in SHIPPED else source)


def _embedded(source: str) -> Path:
    family, _, name = source.partition(":")
    shipped = EMBEDDED.parent / family
    if not name or not (shipped / name).is_dir():
        names = sorted(path.name for path in shipped.iterdir()) if shipped.is_dir() else []
        known = ", ".join(f"{family}:{name}" for name in names) or "none"
        raise ValueError(f"there is no embedded model {source!r}: expected one of {known}")
    return shipped / name
