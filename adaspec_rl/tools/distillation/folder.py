"""The folder that a drafter is distilled into: its settings and its state."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaspec_rl.files import write_atomically

_RECORD = "training.json"


@dataclass(frozen=True, slots=True)
class DistillationFolder:
    """A checkpoint folder in the making; `training.json` says under which settings."""

    path: Path

    @property
    def work(self) -> Path:
        """The folder for files that only an unfinished training needs."""
        return self.path / "checkpoints"

    @property
    def texts(self) -> Path:
        return self.path / "texts"

    @property
    def checkpoint(self) -> Path:
        """The newest state of the training."""
        return self.work / "draft.pt"

    def claim(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """Start or resume under `settings`; returns the record of a finished training, else None.

        Until training has reached a checkpoint, other settings may take over the folder.

        Raises:
            ValueError: the folder holds something else, or a training under other settings.
        """
        if self.path.is_dir() and any(self.path.iterdir()):
            record = training_record(self.path)
            saved = record.get("settings")
            if not isinstance(saved, dict):
                raise ValueError(
                    f"{self.path} is not empty and holds no distilled drafter: choose another out"
                )
            begun = "acceptance" in record or self.checkpoint.exists()
            if begun and saved != settings:
                raise ValueError(
                    f"{self.path} holds a drafter of other settings ({_changes(saved, settings)}): "
                    "choose another out, or repeat the command that began it"
                )
            if "acceptance" in record:
                return record
        self._write({"settings": settings})
        return None

    def finish(self, trained: Path, record: Mapping[str, Any]) -> None:
        """Put the files of `trained` and the record in place, and remove the working files."""
        for file in sorted(trained.iterdir()):
            os.replace(file, self.path / file.name)
        self._write(record)
        shutil.rmtree(self.work)

    def _write(self, record: Mapping[str, Any]) -> None:
        write_atomically(self.path / _RECORD, json.dumps(record, indent=2) + "\n")


def _changes(saved: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The settings that differ, with both values."""
    keys = [key for key in settings if saved.get(key) != settings[key]]
    return ", ".join(f"{key}={saved.get(key)} there, {settings[key]} here" for key in keys)


def training_record(folder: Path) -> dict[str, Any]:
    """The content of `training.json` in `folder`; empty if there is none that can be read."""
    try:
        content = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
