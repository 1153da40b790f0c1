"""Converts a GGUF file to a checkpoint folder, once per file and machine."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from adaspec_rl.console import Update, progress, standard_output
from adaspec_rl.engine.gguf.configuration import configuration, end_of_text_ids
from adaspec_rl.engine.gguf.tensors import IGNORED, checkpoint_tensor
from adaspec_rl.engine.gguf.tokenizer import tokenizer_of
from adaspec_rl.files import locked, new_folder, remove_unfinished

log = logging.getLogger(__name__)

VERSION = 1  # of the conversion; folders of other versions are not used
GIB = 2**30
SHARD = 2 * GIB  # bytes of one weights file


def converted(path: Path, root: Path | None = None) -> Path:
    """The checkpoint folder made from a GGUF file; made now if it does not exist.

    Half-precision tensors keep their type. Quantised tensors become float32, the only type that
    holds their values exactly, so the folder takes four bytes per weight. The folder is named after
    the file's contents and lies in `root` (by default the user's cache,
    `$XDG_CACHE_HOME/adaspec_rl/gguf`). It appears there whole or not at all, and one process makes
    it while others wait.

    Raises:
        ValueError: the file is damaged or holds something that the lean engine does not support,
            the folder cannot be written or its disk is too small, or the `gguf` package is missing.
    """
    path = path.expanduser()
    folder = (root or cache()) / f"{_digest(path)}-v{VERSION}"
    if folder.is_dir():
        return folder
    reader = _reader(path)  # before anything is written
    with locked(folder.parent, waiting=lambda: log.info("another process is converting")):
        if not folder.is_dir():
            remove_unfinished(folder.parent)
            with new_folder(folder) as fresh:
                _convert(reader, path, fresh)
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
        _check_room(folder, sum(_bytes(tensor) for tensor in reader.tensors))
        log.info("converting %s, once; the result is kept in %s", path.name, folder.parent)
        _write_json(folder / "config.json", config)
        ends = {"eos_token_id": end_of_text_ids(metadata)}
        _write_json(folder / "generation_config.json", ends)
        tokenizer.save_pretrained(folder)
        with progress(standard_output(), f"converting {path.name}") as update:
            _write_weights(folder, _checkpoint_tensors(reader.tensors, config, update))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _checkpoint_tensors(
    tensors: Sequence[Any], config: Mapping[str, Any], update: Update
) -> Iterator[tuple[str, torch.Tensor]]:
    total = sum(_bytes(tensor) for tensor in tensors)
    done = 0
    for tensor in tensors:
        if not IGNORED.fullmatch(tensor.name):
            yield checkpoint_tensor(tensor, config)
        done += _bytes(tensor)
        update(done, total)


def _bytes(tensor: Any) -> int:
    """Bytes that the converted tensor will take."""
    return int(tensor.n_elements) * (2 if tensor.tensor_type.name in ("F16", "BF16") else 4)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"the weights take {needed / GIB:.1f} GiB in {folder.parent}, where {free / GIB:.1f} "
            "GiB are free: free some, or set XDG_CACHE_HOME to a folder on another disk"
        )


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")


def _write_weights(folder: Path, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
    """Write files of about `SHARD` bytes, and the index that says which tensor is where."""
    shard: dict[str, torch.Tensor] = {}
    sizes: list[int] = []  # of the files
    places: dict[str, str] = {}

    def flush() -> None:
        file = f"model-{len(sizes) + 1:05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        sizes.append(sum(tensor.nbytes for tensor in shard.values()))
        places.update(dict.fromkeys(shard, file))
        shard.clear()

    for name, tensor in tensors:
        shard[name] = tensor
        if sum(tensor.nbytes for tensor in shard.values()) >= SHARD:
            flush()
    if shard:
        flush()
    index = {"metadata": {"total_size": sum(sizes)}, "weight_map": places}
    _write_json(folder / "model.safetensors.index.json", index)
