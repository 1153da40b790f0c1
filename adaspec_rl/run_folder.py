"""A run's folder before the run: a run that fails early removes only its own files."""

import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict, read_write

from adaspec_rl.files import LOCK
from adaspec_rl.run_identity import RECORD

NOTES = ".hydra"
_FILES = ("config.yaml", "hydra.yaml", "overrides.yaml")  # Hydra's, in NOTES


class RunFolder(Callback):
    """Tells Hydra to leave an earlier run's notes alone; tidies up after a run that failed early.

    A failed task returns its error, see `command.run`.
    """

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.run.dir)
        self._before = Before.of(folder)
        self._log = f"{config.hydra.job.name}.log"
        if RECORD in self._before.names or self._before.notes & set(_FILES):
            with read_write(config), open_dict(config):
                config.hydra.output_subdir = None

    def on_run_end(self, config: DictConfig, **about: Any) -> None:
        ended: JobReturn = about["job_return"]
        completed = ended.status is JobStatus.COMPLETED
        if completed and isinstance(ended.return_value, BaseException):
            logging.shutdown()  # closes the log
            self._before.restore({NOTES, self._log, RECORD, LOCK})


@dataclass(frozen=True, slots=True)
class Before:
    """A folder as it was before a run."""

    folder: Path
    missing: tuple[Path, ...]  # the missing ones of it and its parents, innermost first
    names: frozenset[str]
    notes: frozenset[str]  # in NOTES

    @classmethod
    def of(cls, folder: Path) -> "Before":
        """The folder as it is now; it may not exist."""
        folder = folder.absolute()
        missing = tuple(path for path in (folder, *folder.parents) if not path.exists())
        return cls(folder, missing, _names(folder), _names(folder / NOTES))

    def restore(self, small: set[str]) -> None:
        """Remove new files called `small`, if there are no other new files.

        Earlier files stay, and so do folders that are not empty.
        """
        made = _names(self.folder) - self.names
        if made - small:
            return
        written = [self.folder / NOTES / name for name in _FILES if name not in self.notes]
        written += [self.folder / name for name in made - {NOTES}]
        for path in written:
            path.unlink(missing_ok=True)
        for path in (*([self.folder / NOTES] if NOTES in made else []), *self.missing):
            with suppress(OSError):  # not empty: somebody else's
                path.rmdir()


def _names(folder: Path) -> frozenset[str]:
    return frozenset(os.listdir(folder)) if folder.is_dir() else frozenset()
