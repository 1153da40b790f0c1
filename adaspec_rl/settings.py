"""Settings of the commands that do not use Hydra: defaults, meanings, command line."""

import json
import operator
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, field
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from adaspec_rl.command import INTERRUPTED, MISUSE, is_mistake
from adaspec_rl.explanation import one_line
from adaspec_rl.limits import Limit, require

Schema = TypeVar("Schema")  # a dataclass of `setting`s


def setting(default: Any, meaning: str, limit: Limit) -> Any:
    """A field of a schema, within `limit`; with the default `???` it must be given."""
    about = {"meaning": meaning, "limit": limit}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=about)
    return field(default=default, metadata=about)


def parse(schema: type[Schema], arguments: Sequence[str]) -> Schema:
    """The settings of a command line of `key=value`, as a `schema` object.

    Raises:
        ValueError: a key is unknown, a value is invalid, or a required setting is missing.
    """
    known = _settings(schema)
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        if not equals:
            raise ValueError(f"expected key=value, got {argument!r}; --help lists the keys")
        if key not in known:
            raise ValueError(f"unknown key {key!r}: expected one of {', '.join(known)}")
    try:
        given = OmegaConf.from_dotlist(list(arguments))
        merged = OmegaConf.merge(OmegaConf.structured(schema), given)
    except OmegaConfBaseException as error:
        raise ValueError(_misfit(str(error.full_key).split("[")[0], arguments, known)) from None
    except YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"a value is not YAML, which quotes may help ({reason})") from None
    if missing := sorted(OmegaConf.missing_keys(merged)):
        raise ValueError(f"{' and '.join(missing)} must be set: add {missing[0]}=VALUE")
    config = OmegaConf.to_object(merged)
    assert isinstance(config, schema)
    for key, item in known.items():
        require(key, operator.attrgetter(key)(config), item.metadata["limit"])
    return config


def _misfit(key: str, arguments: Sequence[str], known: Mapping[str, "Field[Any]"]) -> str:
    """The message for a value of another type than the setting's."""
    given = [argument.partition("=")[2] for argument in arguments if argument.startswith(f"{key}=")]
    return f"{key} must be {known[key].metadata['limit'].wanted}, got {given[-1]}"


def describe(schema: type) -> str:
    """Every setting with its default and its meaning, one per line."""
    lines = []
    for key, item in _settings(schema).items():
        value = item.default if item.default_factory is MISSING else item.default_factory()
        default = value if isinstance(value, str) else json.dumps(value)
        shown = "VALUE" if default == "???" else default
        lines.append(f"  {f'{key}={shown}':<24}  {item.metadata['meaning']}")
    return "\n".join(lines)


def _settings(schema: Any, prefix: str = "") -> Mapping[str, "Field[Any]"]:
    """Every dotted key of a schema class, with its field."""
    found: dict[str, Field[Any]] = {}
    for name, item in schema.__dataclass_fields__.items():
        if "meaning" not in item.metadata:
            found |= _settings(item.type, f"{prefix}{name}.")
        else:
            found[prefix + name] = item
    return found


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the program with one sentence after a user's mistake or an interruption."""
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        if not is_mistake(error):
            raise
        if os.environ.get("ADASPEC_DEBUG") == "1":
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(MISUSE)
