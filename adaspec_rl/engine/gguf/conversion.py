"""From a GGUF file to a checkpoint folder, once a file and machine."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors.torch import save_file

from adaspec_rl.engine.gguf.configuration import configuration, end_of_text_ids
from adaspec_rl.engine.gguf.tensors import checkpoint_tensor
from adaspec_rl.engine.gguf.tokenizer import tokenizer_of

log = logging.getLogger(__name__)

VERSION = 1  # of what a conversion makes; a folder of another version is not used
SHARD = 2 * 2**30  # bytes of one weights file


def converted(path: Path, root: Path | None = None) -> Path:
    """The checkpoint folder made of a GGUF file; made now if it is not there.

    Half-precision tensors keep their type. Quantised ones become float32, which alone holds their
    values exactly, so the folder takes four bytes a weight. It is named after the file's contents,
    lies in `root` (by default the user's cache, `$XDG_CACHE_HOME/adaspec_rl/gguf`), appears there
    whole or not at all, and is made by one process while others wait.

    Raises:
        ValueError: the file is damaged or holds what the lean engine does not support, or the
            `gguf` package is missing.
        OSError: the folder cannot be written.
    """
    path = path.expanduser()
    folder = (root or cache()) / f"{_digest(path)}-v{VERSION}"
    if folder.is_dir():
        return folder
    reader = _reader(path)  # before anything is written
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            partial = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)  # of a conversion that was killed
            partial.mkdir()
            try:
                _convert(reader, path, partial)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            partial.rename(folder)
    return folder


def cache() -> Path:
    """Where conversions are kept."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "adaspec_rl" / "gguf"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.blake2b(digest_size=10)
        while block := file.read(2**22):
            digest.update(block)
    return digest.hexdigest()


def _reader(path: Path) -> Any:
    try:
        from gguf import GGUFReader
    except ImportError:
        raise ValueError(f"{path} needs the gguf package: pip install gguf") from None
    try:
        return GGUFReader(path)
    except (ValueError, LookupError, ArithmeticError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not a whole GGUF file ({reason}): download it again") from None


def _convert(reader: Any, path: Path, folder: Path) -> None:
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    try:
        config = configuration(metadata, tensors)
        tokenizer = tokenizer_of(metadata)
        ends = end_of_text_ids(metadata)
        log.info("converting %s into %s, once", path.name, folder.parent)
        _write_json(folder / "config.json", config)
        _write_json(folder / "generation_config.json", {"eos_token_id": ends})
        tokenizer.save_pretrained(folder)
        _write_weights(folder, (checkpoint_tensor(item, config) for item in reader.tensors))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")


def _write_weights(folder: Path, tensors: Iterator[tuple[str, torch.Tensor] | None]) -> None:
    """Files of about `SHARD` bytes, and the index that says what is where."""
    shards: list[dict[str, torch.Tensor]] = [{}]
    places: dict[str, str] = {}

    def flush() -> None:
        name = f"model-{len(shards):05d}.safetensors"
        save_file(shards[-1], folder / name, metadata={"format": "pt"})
        places.update(dict.fromkeys(shards[-1], name))
        shards.append({})

    size = 0
    for item in tensors:
        if item is None:
            continue
        name, tensor = item
        shards[-1][name] = tensor
        size += tensor.nbytes
        if size >= SHARD:
            flush()
            size = 0
    if shards[-1]:
        flush()
    _write_json(folder / "model.safetensors.index.json", {"weight_map": places})
