"""What `reset` and `step` may be given."""

import operator
from typing import Any


def is_index(value: Any, count: int) -> bool:
    """Whether `value` is an integer from 0 to `count - 1`, NumPy's own included."""
    if isinstance(value, bool):
        return False
    try:
        return 0 <= operator.index(value) < count
    except TypeError:
        return False


def option(options: dict[str, Any] | None, name: str, default: Any) -> Any:
    """The value of the one option that an environment knows, `name`, if it is there.

    Raises:
        ValueError: there are others.
    """
    unknown = [key for key in options or {} if key != name]
    if unknown:
        raise ValueError(f"unknown option {unknown[0]!r}: expected {name!r} or none")
    return (options or {}).get(name, default)
