"""What is wrong with a command line, in one sentence that says what to type instead."""

import difflib
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from adaspec_rl import config as schema
from adaspec_rl.config_limits import LIMITS
from adaspec_rl.limits import Limit, Text

GROUPS = ("agent", "controller", "cost", "data", "env", "experiment", "logger", "model")
FREE = r"(controller\.parameters|model\.specialists|rivals)[.=]"  # groups whose keys users choose


def explain(error: BaseException, config_name: str) -> str:
    """One line on what is wrong, with near matches for misspelt keys and groups."""
    known = known_keys(config_name)
    if isinstance(error, OverrideParseException):
        return _unreadable(str(error.override), known)
    if isinstance(error, TypeError) or "Config group override" in str(error):
        return _group_value(one_line(error))
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return one_line(error)
    root: BaseException = error
    while root.__cause__ is not None and isinstance(root, HydraException):
        root = root.__cause__
    reason = " ".join(str(root).split("\n    full_key")[0].split())
    given = re.search(r"Error merging override [+]*([\w.]+)=(.*)", str(error), re.DOTALL)
    if given and given.group(1) in LIMITS:
        name, value = given.groups()
        return f"{name} must be {LIMITS[name].wanted}, got {' '.join(value.split())}"
    if several := re.search(r"Ambiguous value for argument '(.*)'$", str(error), re.MULTILINE):
        return _several(several.group(1), known)
    if absent := re.search(r"find '(\w+)/([\w./-]+)'", str(error)):
        group, name = absent.groups()
        options = re.findall(r"^\t([\w-]+)$", str(error), re.MULTILINE)
        return f"{group}={name} does not exist: expected one of {', '.join(options)}"
    key = re.search(r"override '([\w.]+)'", str(error)) or re.search(
        r"full_key: ([\w.]+)", str(root)
    )
    if key is None:
        return reason
    name = key.group(1)
    if name not in known:
        return f"unknown key {name!r}{near(name, known)}"
    return f"{name}: {reason}"


def one_line(error: BaseException) -> str:
    """An error's own message; if a device is full, also which setting to lower."""
    if isinstance(error, RuntimeError):  # torch's
        from adaspec_rl.engine.memory import out_of_memory  # slow to import, and rarely needed

        return str(out_of_memory("what this run needs", error))
    return " ".join(str(error).split()) or f"a {type(error).__name__} without a reason"


def known_keys(config_name: str) -> list[str]:
    """Every dotted key of a script's configuration."""
    train = config_name == "train_policy"
    return schema.keys(schema.TrainConfig if train else schema.EvaluateConfig)


def near(key: str, known: Sequence[str]) -> str:
    """The keys that an unknown `key` probably meant, as the end of a sentence."""
    group, _, leaf = key.rpartition(".")
    siblings = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == group}
    short = [name for word, name in siblings.items() if _abbreviates(leaf, word)]
    if short:
        return f": did you mean {' or '.join(short)}?"
    same = [name for name in known if name.rpartition(".")[2] == leaf]
    close = difflib.get_close_matches(key, same or known, n=2, cutoff=0.5 if same else 0.75)
    if close:
        return f": did you mean {' or '.join(close)}?"
    return f": expected one of {', '.join(siblings.values() if group else _outermost(known))}"


def _outermost(known: Sequence[str]) -> list[str]:
    return [name for name in known if "." not in name]


def _abbreviates(short: str, word: str) -> bool:
    """Whether `short` is the initials of `word`, as in lr for learning_rate."""
    return len(short) > 1 and short == "".join(part[0] for part in word.split("_"))


def unknown_keys(config: DictConfig, known: Sequence[str], prefix: str = "") -> Iterator[str]:
    """Keys of a composed configuration that its schema lacks, since `+KEY=VALUE` can add any."""
    for key in map(str, config):
        name = prefix + key
        if name not in known:
            yield name
        elif any(other.startswith(f"{name}.") for other in known):
            below: Any = OmegaConf.select(config, key)
            if isinstance(below, DictConfig):
                yield from unknown_keys(below, known, f"{name}.")


def quoted(value: str) -> str:
    """The text quoted so that Hydra reads exactly this text."""
    value = re.sub(r"(\\*)(\"|\Z)", r"\1\1\2", value).replace('"', r"\"")
    return '"' + value.replace("${", r"\${") + '"'


def _with_quotes(key: str, value: str) -> str:
    """The argument as typed into a shell."""
    return shlex.quote(f"{key}={quoted(value)}")


def _limit(key: str) -> Limit | None:
    """The allowed values of a key on the command line; None if the key is unknown."""
    if key.startswith("model.specialists.") or key.startswith("hydra."):
        return Text()
    return LIMITS.get(key)


def _unreadable(override: str, known: Sequence[str]) -> str:
    key, equals, value = override.partition("=")
    if not equals:
        return f"expected KEY=VALUE, got {override!r}"
    name = key.lstrip("+~")
    limit = _limit(name)
    if limit is None:
        return f"unknown key {name!r}{near(name, known)}"
    if limit.allows(value) and value.isprintable():
        return f"{override} cannot be read as it is: quote the value, {_with_quotes(key, value)}"
    return f"{name} must be {limit.wanted}, got {value!r} (texts in it may need quotes)"


def _several(override: str, known: Sequence[str]) -> str:
    key, _, value = override.partition("=")
    limit = _limit(key.lstrip("+"))
    if limit is not None and limit.allows(value):
        return (
            f"{override} is several values: quote the value, {_with_quotes(key, value)}, or add -m"
        )
    return f"{override!r} is several values: add -m to run one after another, or choose one"


def _group_value(reason: str) -> str:
    for argument in sys.argv[1:]:
        key, _, value = argument.partition("=")
        if key in GROUPS and (value == "null" or not re.fullmatch(r"[\w./-]+", value)):
            return f"{key} must be the name of a file in conf/{key}, got {value}"
    return f"the command line cannot be read: {reason}"
