"""Checks of the arguments of `reset` and `step`."""

import operator
from typing import Any


def is_index(value: Any, count: int) -> bool:
    """Whether `value` is an integer (Python's or NumPy's) from 0 to `count - 1`."""
    if isinstance(value, bool):
        return False
    try:
        return 0 <= operator.index(value) < count
    except TypeError:
        return False


def option(options: dict[str, Any] | None, name: str, default: Any) -> Any:
    """The value of `name`, the only option that an environment knows; else `default`.

    Raises:
        ValueError: `options` has another key.
    """
    unknown = [key for key in options or {} if key != name]
    if unknown:
        raise ValueError(f"unknown option {unknown[0]!r}: expected {name!r} or none")
    return (options or {}).get(name, default)
