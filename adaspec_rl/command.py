"""Runs a script's task under Hydra and turns the user's mistakes into one line and exit code 2."""

import difflib
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from adaspec_rl import config as schema

MISUSE = 2  # the exit code of a user's mistake


def run(task: Callable[[Any], float | None], config_path: Path, config_name: str) -> None:
    """Compose `config_name` from the command line and call `task(config)`.

    `ADASPEC_DEBUG=1` shows the traceback of what would be a one-line error.
    """
    schema.register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises in place of printing its own report

    def guarded(config: Any) -> float | None:
        try:
            return task(OmegaConf.to_object(config))
        except BaseException:
            _remove_if_empty(Path(HydraConfig.get().runtime.output_dir))
            raise

    entry = hydra.main(version_base="1.3", config_path=str(config_path), config_name=config_name)
    try:
        entry(guarded)()
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, HydraException, OmegaConfBaseException, OSError) as error:
        if os.environ.get("ADASPEC_DEBUG") == "1":
            raise
        Console(stderr=True, highlight=False).print(
            f"error: {explain(error, config_name)}", soft_wrap=True, markup=False
        )
        sys.exit(MISUSE)


def explain(error: BaseException, config_name: str) -> str:
    """One line on what is wrong, with near matches for misspelt keys and groups."""
    root: BaseException = error
    while root.__cause__ is not None and isinstance(root, HydraException):
        root = root.__cause__
    text = str(error if isinstance(error, ValueError) else root)
    root_schema = schema.TrainConfig if config_name == "train_policy" else schema.EvaluateConfig
    known = schema.keys(root_schema)
    full_key = re.search(r"full_key: (\S+)", text) or re.search(r"override '([\w.]+)'", str(error))
    if full_key and full_key.group(1) not in known:
        return f"unknown key {full_key.group(1)!r}{_near(full_key.group(1), known)}"
    missing = re.search(r"find '([\w]+)/([\w./-]+)'", str(error))
    if missing:
        group, name = missing.groups()
        options = re.findall(r"^\t([\w-]+)$", str(error), re.MULTILINE)
        return f"{group}={name} does not exist: expected one of {', '.join(options)}"
    absent = re.search(r"Missing mandatory value: (\S+)", text)
    if absent:
        return f"{absent.group(1)} is not set: add {absent.group(1)}=VALUE"
    return " ".join(text.split("\n    full_key")[0].split())


def _near(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=3, cutoff=0.6)
    leaf = key.rsplit(".", 1)[-1]
    close += [name for name in known if name.rsplit(".", 1)[-1] == leaf and name not in close]
    if not close:
        return f": expected one of {', '.join(name for name in known if '.' not in name)}"
    return f": did you mean {' or '.join(close[:3])}?"


def _remove_if_empty(folder: Path) -> None:
    """Take back a run's folder that holds nothing but Hydra's own notes."""
    logging.shutdown()
    if folder.is_dir():
        written = [path for path in folder.iterdir() if path.name != ".hydra"]
        if all(path.suffix == ".log" for path in written):
            shutil.rmtree(folder)
