"""Refusals of arguments that make no sense."""

import math


def check_between(what: str, value: float, low: float, high: float = math.inf) -> None:
    """Refuse a `value` outside of `low` to `high`, both of which are allowed."""
    if not low <= value <= high:
        wanted = f"at least {low:g}" if high == math.inf else f"in [{low:g}, {high:g}]"
        raise ValueError(f"{what} must be {wanted}, got {value:g}")
