"""The files of a model: a local folder or a repository on the Hugging Face Hub."""

import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from adaspec_rl.engine.gguf import converted

_HUB_ID = re.compile(r"[\w\-][\w\-.]*(/[\w\-][\w\-.]*)?")
_CONFIG = "config.json"
_INDEX = "model.safetensors.index.json"
_WEIGHTS = "model.safetensors"


class Checkpoint:
    """A model's configuration and its safetensors files, downloaded when first asked for."""

    def __init__(self, source: str | Path) -> None:
        """`source`: a folder, a GGUF file, or a hub id such as `Qwen/Qwen3-0.6B`.

        A GGUF file is converted into a folder, which is the source from then on.

        Raises:
            ValueError: there is no such folder or file and `source` cannot be a hub id, or the
                file cannot be converted.
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
        """The contents of `generation_config.json`; empty where there is none.

        Raises:
            ValueError: it cannot be fetched or is not a JSON object.
        """
        path = self._fetch("generation_config.json")
        return {} if path is None else _read_json(path)

    def weight_files(self) -> list[Path]:
        """The safetensors files that hold the weights.

        Raises:
            ValueError: there are none, or they cannot be fetched.
        """
        index = self._fetch(_INDEX)
        names = [_WEIGHTS]
        if index is not None:
            names = sorted(set(_read_json(index).get("weight_map", {}).values()))
        files = []
        for name in names:
            path = self._fetch(name)
            if path is None:
                raise ValueError(f"{self.source} lacks the weights file {name}")
            files.append(path)
        return files

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
    """One sentence: what the hub said, and what to set."""
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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a JSON object")
    return content
