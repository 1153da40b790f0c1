"""Runs a script's task under Hydra and turns the user's mistakes into one line and exit code 2."""

import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from adaspec_rl import config as schema
from adaspec_rl.config_conflicts import check_together
from adaspec_rl.config_limits import check
from adaspec_rl.explanation import FREE, explain, known_keys, near, quoted, unknown_keys

logger = logging.getLogger(__name__)


class FailedJob(Exception):
    """A mistake in one job of a sweep; the message says which job."""


MISUSE, INTERRUPTED = 2, 130  # exit codes
MISTAKES = (
    ValueError,
    HydraException,
    OmegaConfBaseException,
    OSError,
    MemoryError,
    FailedJob,
    FloatingPointError,  # a model's logits are NaN or infinite
)


class _SweepStopped(BaseException):
    """Ends a sweep at its first failure; after an `Exception`, Hydra would start the next job."""


def run(
    task: Callable[[Any], float | None],
    config_path: Path,
    config_name: str,
    follow: Callable[[Any], None] | None = None,
) -> None:
    """Compose `config_name` from the command line and call `task(config)`.

    With model.tensor_parallel, only the first process that `torchrun` started does; the others call
    `follow(config)`.

    `ADASPEC_DEBUG=1` shows the traceback of what would be a one-line error.
    """
    schema.register()
    sys.argv[1:] = [part for argument in sys.argv[1:] for part in expand(argument)]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing its own report
    others = os.environ.get("RANK", "0") != "0"
    if others and follow is not None and _followed(follow, config_path, config_name):
        return
    failures: list[BaseException] = []
    composed = False
    process = os.getpid()

    def guarded(config: Any) -> float | BaseException | None:
        nonlocal composed
        composed = True
        try:
            return task(checked(config, config_name))
        except (Exception, KeyboardInterrupt) as error:
            if not is_mistake(error):
                raise
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                if isinstance(error, KeyboardInterrupt):
                    raise
                raise _job_failure(error, config_name, os.getpid() != process) from error
            failures.append(error)
            return error  # `RunFolder` gets it; Hydra would print lines of its own

    try:
        hydra.main(version_base="1.3", config_path=str(config_path), config_name=config_name)(
            guarded
        )()
    except _SweepStopped as stopped:
        failures.append(stopped.args[0])
    except (Exception, KeyboardInterrupt) as error:
        if composed and not is_mistake(error):  # otherwise it is Hydra's, about the command line
            raise
        failures.append(error)
    if failures:
        _exit(failures[0], config_name)


def _followed(follow: Callable[[Any], None], config_path: Path, config_name: str) -> bool:
    """Whether the processes that `torchrun` started share a target, so that this one followed."""
    try:
        with hydra.initialize_config_dir(str(config_path), version_base="1.3"):
            config = checked(hydra.compose(config_name, sys.argv[1:]), config_name)
        if config.model.tensor_parallel is None:
            return False
        follow(config)
    except (Exception, KeyboardInterrupt) as error:
        if not is_mistake(error):
            raise
        _exit(error, config_name)
    return True


def checked(config: DictConfig, config_name: str) -> Any:
    """The composed configuration as an object of its schema.

    Raises:
        ValueError: a setting is missing, unknown, or has an invalid value.
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
    """Whether one line can tell users what to do, so that a traceback would not help."""
    if type(error) is RuntimeError or type(error).__module__.startswith("torch"):
        from adaspec_rl.engine.memory import exhausted  # slow to import, and rarely needed

        return exhausted(error)
    return isinstance(error, (*MISTAKES, KeyboardInterrupt))


def _job_failure(
    error: BaseException, config_name: str, elsewhere: bool
) -> FailedJob | _SweepStopped:
    """The error that a sweep's job raises; `elsewhere`: in its own process, so others go on."""
    job = HydraConfig.get()
    failed = FailedJob(
        f"job {job.job.num} ({' '.join(job.overrides.task)}): {explain(error, config_name)}"
    )
    failed.__cause__ = error
    if not elsewhere:
        return _SweepStopped(failed)
    logger.error(failed)  # log now, since the others may take hours
    return failed


def expand(argument: str) -> list[str]:
    """Translate `cost=PATH.json`, and keys that no schema can list, for Hydra."""
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
