"""Runs a script's task under Hydra and turns the user's mistakes into one line and exit code 2."""

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
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from adaspec_rl import config as schema
from adaspec_rl.config_conflicts import check_together
from adaspec_rl.config_limits import check
from adaspec_rl.explanation import FREE, explain, known_keys, near, quoted, unknown_keys

MISUSE, INTERRUPTED = 2, 130  # exit codes
MISTAKES = (
    ValueError,
    HydraException,
    OmegaConfBaseException,
    OSError,
    MemoryError,
    FloatingPointError,  # a model's logits are NaN or infinite
)


def run(task: Callable[[Any], float | None], config_path: Path, config_name: str) -> None:
    """Compose `config_name` from the command line and call `task(config)`.

    `ADASPEC_DEBUG=1` shows the traceback of what would be a one-line error.
    """
    schema.register()
    sys.argv[1:] = [part for argument in sys.argv[1:] for part in expand(argument)]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises in place of printing its own report
    failures: list[BaseException] = []
    composed = False

    def guarded(config: Any) -> float | None:
        if failures:  # a sweep stops at its first failure
            return None
        nonlocal composed
        composed = True
        try:
            return task(checked(config, config_name))
        except (Exception, KeyboardInterrupt) as error:  # Hydra would print lines of its own
            if not is_mistake(error):
                raise
            failures.append(error)
            _remove_if_empty(Path(HydraConfig.get().runtime.output_dir))
            return None

    try:
        hydra.main(version_base="1.3", config_path=str(config_path), config_name=config_name)(
            guarded
        )()
    except Exception as error:
        if composed and not is_mistake(error):  # else it is Hydra's, about the command line
            raise
        failures.append(error)
    if failures:
        _exit(failures[0], config_name)


def checked(config: DictConfig, config_name: str) -> Any:
    """The composed configuration as an object of its schema.

    Raises:
        ValueError: a setting is missing, unknown, or has a value that it cannot have.
    """
    known = known_keys(config_name)
    for key in unknown_keys(config, known):
        raise ValueError(f"unknown key {key!r}{near(key, known)}")
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        names = " and ".join(missing)
        raise ValueError(f"{names} must be set: add {missing[0]}=VALUE")
    made: Any = OmegaConf.to_object(config)
    check(made)
    check_together(made)
    return made


def is_mistake(error: BaseException) -> bool:
    """Whether one line tells users what to do, where a traceback would only hide it."""
    if type(error) is RuntimeError or type(error).__module__.startswith("torch"):
        from adaspec_rl.engine.memory import exhausted  # slow to import, and rarely needed

        return exhausted(error)
    return isinstance(error, (*MISTAKES, KeyboardInterrupt))


def expand(argument: str) -> list[str]:
    """`cost=PATH.json`, and keys that no schema can list, in Hydra's own words."""
    if re.match(FREE, argument):
        return [f"++{argument}"]
    saved = re.fullmatch(r"cost=(.+\.json)", argument)
    return ["cost=file", f"cost.path={quoted(saved.group(1))}"] if saved else [argument]


def _exit(error: BaseException, config_name: str) -> None:
    if isinstance(error, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    if os.environ.get("ADASPEC_DEBUG") == "1":
        raise error
    print(f"error: {explain(error, config_name)}", file=sys.stderr)
    sys.exit(MISUSE)


def _remove_if_empty(folder: Path) -> None:
    """Take back a run's folder that holds nothing but Hydra's own notes."""
    logging.shutdown()
    if folder.is_dir():
        written = [path for path in folder.iterdir() if path.name != ".hydra"]
        if all(path.suffix == ".log" for path in written):
            shutil.rmtree(folder)
