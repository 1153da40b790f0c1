"""What `reset(options=...)` may ask for."""

from typing import Any


def option(options: dict[str, Any] | None, name: str, default: Any) -> Any:
    """The value of the one option that an environment knows, `name`, if it is there.

    Raises:
        ValueError: there are others.
    """
    unknown = [key for key in options or {} if key != name]
    if unknown:
        raise ValueError(f"unknown option {unknown[0]!r}: expected {name!r} or none")
    return (options or {}).get(name, default)
