"""Checks that refuse invalid arguments."""

import math


def check_between(what: str, value: float, low: float, high: float = math.inf) -> None:
    """Refuse a `value` that is not from `low` to `high`, both included."""
    if not low <= value <= high:
        wanted = f"at least {low:g}" if high == math.inf else f"in [{low:g}, {high:g}]"
        raise ValueError(f"{what} must be {wanted}, got {value:g}")
