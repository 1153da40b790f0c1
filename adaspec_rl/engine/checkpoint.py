"""The files of a model: a local folder or a repository on the Hugging Face Hub."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError, safe_open

from adaspec_rl import strict_json
from adaspec_rl.engine.gguf import converted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_HUB_ID = re.compile(r"[\w\-][\w\-.]*(/[\w\-][\w\-.]*)?")
_CONFIG = "config.json"
_INDEX = "model.safetensors.index.json"
_WEIGHTS = "model.safetensors"
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_TOKENIZERS = ("*token*", "vocab*", "*.model", "*.tiktoken", "tekken.json")
_POINTER = b"version https://git-lfs"  # the first bytes of a file that Git LFS has not fetched


class Checkpoint:
    """A model's configuration and its safetensors files, downloaded when first asked for."""

    def __init__(self, source: str | Path) -> None:
        """`source`: a folder, a GGUF file, or a hub id such as `Qwen/Qwen3-0.6B`.

        A GGUF file is converted into a folder, which then becomes the source.

        Raises:
            ValueError: there is no such folder or file and `source` cannot be a hub id, or the file
                cannot be converted.
        """
        self.source = str(source)
        self.folder = Path(source).expanduser()
        if self.folder.suffix == ".gguf":
            if not self.folder.is_file():
                raise ValueError(
                    f"there is no file {self.source}: expected the path of a GGUF file"
                )
            self.folder = converted(self.folder)
            self.source = str(self.folder)
        self.local = self.folder.is_dir()
        if self.folder.is_file():
            raise ValueError(
                f"{self.source} is a file: expected a checkpoint folder, with config.json and "
                f"safetensors files; try {self.folder.parent}"
            )
        if not self.local and not _HUB_ID.fullmatch(self.source):
            raise ValueError(
                f"there is no folder {self.source}: expected the path of a checkpoint folder or a "
                "hub id such as Qwen/Qwen3-0.6B"
            )

    def config(self) -> dict[str, Any]:
        """The contents of `config.json`.

        Raises:
            ValueError: it is missing, cannot be fetched or is not a JSON object.
        """
        path = self._fetch(_CONFIG)
        if path is None:
            raise ValueError(f"{self.source} has no {_CONFIG}: it is not a model checkpoint")
        return _read_json(path)

    def generation_config(self) -> dict[str, Any]:
        """The contents of `generation_config.json`; empty if there is no such file.

        Raises:
            ValueError: it cannot be fetched or is not a JSON object.
        """
        path = self._fetch("generation_config.json")
        return {} if path is None else _read_json(path)

    def weight_files(self) -> list[Path]:
        """The safetensors files that hold the weights, each with a header that fits its size.

        Raises:
            ValueError: there are none, they cannot be fetched, or one is damaged.
        """
        index = self._fetch(_INDEX)
        names = [_WEIGHTS]
        if index is not None:
            held = _read_json(index).get("weight_map")
            if not isinstance(held, dict) or not held or set(map(type, held.values())) != {str}:
                raise ValueError(f"{index} names no files in its weight_map: download it again")
            names = sorted(set(held.values()))
        files = []
        for name in names:
            path = self._fetch(name)
            if path is None:
                raise ValueError(self._without(name))
            check_weights_file(path)
            files.append(path)
        return files

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The checkpoint's tokenizer.

        Raises:
            ValueError: there is none, it cannot be fetched, or a file is damaged.
        """
        from transformers import AutoTokenizer  # slow to import

        if self.local and not any(any(self.folder.glob(name)) for name in _TOKENIZERS):
            raise ValueError(
                f"{self.source} has no tokenizer: copy tokenizer.json and tokenizer_config.json "
                "into it from the checkpoint it was made of"
            )
        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                self.source, trust_remote_code=False
            )
        except Exception as error:  # the tokenizers package raises the base class itself
            if not self.local:
                raise ValueError(hub_failure(self.source, error)) from None
            for path in sorted(self.folder.glob("*.json")):
                _read(path)
            raise ValueError(
                f"the tokenizer in {self.source} cannot be read: {first_sentence(error)}"
            ) from None
        return tokenizer

    def _without(self, name: str) -> str:
        """The error message for a missing weights file `name`."""
        pickled = [name for name in _PICKLED if self.local and (self.folder / name).is_file()]
        if pickled or not self.local:
            only = f"{self.source} has only {pickled[0]}" if pickled else f"{self.source} has none"
            return (
                f"weights are read from safetensors files, but {only}: convert it, for example by "
                f"transformers' AutoModelForCausalLM.from_pretrained({self.source!r})"
                ".save_pretrained(FOLDER), and the same with AutoTokenizer"
            )
        return f"{self.source} lacks the weights file {name}"

    def _fetch(self, name: str) -> Path | None:
        if self.local:
            path = self.folder / name
            return path if path.is_file() else None
        try:
            return Path(hf_hub_download(self.source, name))
        except LocalEntryNotFoundError as error:
            raise ValueError(hub_failure(self.source, error)) from None
        except EntryNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ValueError(hub_failure(self.source, error)) from None


def hub_failure(source: str, error: Exception) -> str:
    """One sentence: what went wrong with the hub, and what to do."""
    reason = getattr(error, "server_message", None) or str(error) or type(error).__name__
    if error.__cause__ is not None:
        reason = f"{reason.rstrip('. ')}: {error.__cause__}"
    reason = " ".join(reason.split()).rstrip(".")
    if isinstance(error, GatedRepoError):
        remedy = "accept its terms on the hub and set HF_TOKEN to your access token"
    elif isinstance(error, RepositoryNotFoundError):
        remedy = "check the id, or set HF_TOKEN if the repository is private"
    elif isinstance(error, HfHubHTTPError):
        remedy = "try again later, or give the path of a local folder"
    else:
        remedy = (
            "check the network, unset HF_HUB_OFFLINE, or give the path of a local folder; with "
            "HF_HUB_OFFLINE=1 only models already in the cache are looked for"
        )
    return f"cannot load {source!r}, which is not a local folder, from the hub ({reason}): {remedy}"


def check_weights_file(path: Path) -> None:
    """Refuse a safetensors file that is damaged.

    Raises:
        ValueError: it is empty, cut short, a Git LFS pointer or something else.
    """
    try:
        with safe_open(path, framework="pt"):
            return
    except (SafetensorError, OSError) as error:
        damage = _damage(path) or f"is damaged ({first_sentence(error)}): download it again"
    raise ValueError(f"the weights file {path} {damage}")


def _damage(path: Path) -> str | None:
    """What is wrong with a file, as far as its size and first bytes show."""
    with path.open("rb") as file:
        start = file.read(len(_POINTER))
    if not start:
        return "is empty: download it again"
    if start == _POINTER:
        return f"is a Git LFS pointer, not the file itself: run git lfs pull in {path.parent}"
    return None


def first_sentence(error: Exception) -> str:
    """The gist of a long message, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.split(r"(?<=[.!?]) (?=[A-Z])", text)[0][:300].rstrip(". ")


def _read_json(path: Path) -> dict[str, Any]:
    content = _read(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a JSON object")
    return content


def _read(path: Path) -> Any:
    if damage := _damage(path):
        raise ValueError(f"{path} {damage}")
    return strict_json.read(path, str(path))
