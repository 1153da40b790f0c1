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

from adaspec_rl import config as schema

MISUSE, INTERRUPTED = 2, 130  # exit codes
MISTAKES = (ValueError, HydraException, OmegaConfBaseException, OSError)


def run(task: Callable[[Any], float | None], config_path: Path, config_name: str) -> None:
    """Compose `config_name` from the command line and call `task(config)`.

    `ADASPEC_DEBUG=1` shows the traceback of what would be a one-line error.
    """
    schema.register()
    sys.argv[1:] = [part for argument in sys.argv[1:] for part in expand(argument)]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises in place of printing its own report
    failures: list[BaseException] = []

    def guarded(config: Any) -> float | None:
        if failures:  # a sweep stops at its first failure
            return None
        try:
            missing = sorted(OmegaConf.missing_keys(config))
            if missing:
                names = " and ".join(missing)
                raise ValueError(f"{names} must be set: add {missing[0]}=VALUE")
            return task(OmegaConf.to_object(config))
        except (*MISTAKES, KeyboardInterrupt) as error:  # Hydra would print lines of its own
            failures.append(error)
            _remove_if_empty(Path(HydraConfig.get().runtime.output_dir))
            return None

    try:
        hydra.main(version_base="1.3", config_path=str(config_path), config_name=config_name)(
            guarded
        )()
    except MISTAKES as error:
        failures.append(error)
    if failures:
        _exit(failures[0], config_name)


def expand(argument: str) -> list[str]:
    """`cost=PATH.json` and a controller's parameters (no schema has them) in Hydra's own words."""
    if argument.startswith("controller.parameters."):
        return [f"++{argument}"]
    saved = re.fullmatch(r"cost=(.+\.json)", argument)
    return ["cost=file", f"cost.path={saved.group(1)}"] if saved else [argument]


def _exit(error: BaseException, config_name: str) -> None:
    if isinstance(error, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    if os.environ.get("ADASPEC_DEBUG") == "1":
        raise error
    print(f"error: {explain(error, config_name)}", file=sys.stderr)
    sys.exit(MISUSE)


def explain(error: BaseException, config_name: str) -> str:
    """One line on what is wrong, with near matches for misspelt keys and groups."""
    root: BaseException = error
    while root.__cause__ is not None and isinstance(root, HydraException):
        root = root.__cause__
    train = config_name == "train_policy"
    known = schema.keys(schema.TrainConfig if train else schema.EvaluateConfig)
    reason = " ".join(str(root).split("\n    full_key")[0].split())
    absent = re.search(r"find '(\w+)/([\w./-]+)'", str(error))
    if absent:
        group, name = absent.groups()
        options = re.findall(r"^\t([\w-]+)$", str(error), re.MULTILINE)
        return f"{group}={name} does not exist: expected one of {', '.join(options)}"
    key = re.search(r"override '([\w.]+)'", str(error)) or re.search(r"full_key: (\S+)", str(root))
    if key is None:
        return reason
    if key.group(1) in known:
        return f"{key.group(1)}: {reason}"
    return f"unknown key {key.group(1)!r}{_near(key.group(1), known)}"


def _near(key: str, known: list[str]) -> str:
    leaf = key.rsplit(".", 1)[-1]
    close = [name for name in known if name.rsplit(".", 1)[-1] == leaf]
    close = difflib.get_close_matches(key, close or known, n=2, cutoff=0.5 if close else 0.75)
    if not close:
        return f": expected one of {', '.join(name for name in known if '.' not in name)}"
    return f": did you mean {' or '.join(close)}?"


def _remove_if_empty(folder: Path) -> None:
    """Take back a run's folder that holds nothing but Hydra's own notes."""
    logging.shutdown()
    if folder.is_dir():
        written = [path for path in folder.iterdir() if path.name != ".hydra"]
        if all(path.suffix == ".log" for path in written):
            shutil.rmtree(folder)
