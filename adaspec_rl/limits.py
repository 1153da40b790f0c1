"""Limits of settings: a few kinds, each with a phrase that says what it allows."""

import argparse
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

_LONGEST = 100  # most characters of a value that messages quote


class Limit(Protocol):
    """The values that a setting may have."""

    @property
    def wanted(self) -> str:
        """A phrase for "KEY must be ..."."""
        ...

    def allows(self, value: Any) -> bool: ...


@dataclass(frozen=True, slots=True)
class Words:
    """One word of a closed list."""

    words: tuple[str, ...]

    def __init__(self, *words: str) -> None:
        object.__setattr__(self, "words", words)

    @property
    def wanted(self) -> str:
        return self.words[0] if len(self.words) == 1 else f"one of {', '.join(self.words)}"

    def allows(self, value: Any) -> bool:
        return isinstance(value, str) and value in self.words


@dataclass(frozen=True, slots=True)
class Whole:
    """An integer from `low` to `high`."""

    low: int
    high: int

    @property
    def wanted(self) -> str:
        return f"an integer from {self.low:,} to {self.high:,}"

    def allows(self, value: Any) -> bool:
        integer = isinstance(value, int) and not isinstance(value, bool)
        return integer and self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Number:
    """A finite number from `low` to `high`; `above` and `below` leave out the ends themselves."""

    low: float
    high: float
    above: bool = False
    below: bool = False

    @property
    def wanted(self) -> str:
        if not self.above and not self.below:
            return f"a number from {self.low:g} to {self.high:g}"
        least = f"above {self.low:g}" if self.above else f"at least {self.low:g}"
        most = f"below {self.high:g}" if self.below else f"at most {self.high:g}"
        return f"a number {least} and {most}"

    def allows(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if not self.low <= value <= self.high:  # NaN is refused, too
            return False
        return not (self.above and value == self.low or self.below and value == self.high)


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    wanted: str = "true or false"

    def allows(self, value: Any) -> bool:
        return isinstance(value, bool)


@dataclass(frozen=True, slots=True)
class Text:
    """Any nonempty text, or any text that matches the whole `pattern`."""

    wanted: str = "a text of at least 1 character"
    pattern: str = r"[^\0]*[^\0\s][^\0]*"

    def allows(self, value: Any) -> bool:
        return isinstance(value, str) and re.fullmatch(self.pattern, value) is not None


@dataclass(frozen=True, slots=True)
class OrNull:
    """A value that another limit allows, or None."""

    limit: Limit

    @property
    def wanted(self) -> str:
        return f"{self.limit.wanted}, or null"

    def allows(self, value: Any) -> bool:
        return value is None or self.limit.allows(value)


@dataclass(frozen=True, slots=True)
class Either:
    """A value that one of two limits allows."""

    one: Limit
    other: Limit

    @property
    def wanted(self) -> str:
        return f"{self.one.wanted} or {self.other.wanted}"

    def allows(self, value: Any) -> bool:
        return self.one.allows(value) or self.other.allows(value)


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of `least` to `most` items, all different unless they may be `repeated`."""

    item: Limit
    least: int = 0
    most: int = 64
    repeated: bool = False

    @property
    def wanted(self) -> str:
        different = "" if self.repeated else "different "
        return f"a list of {self.least} to {self.most} {different}items, each {self.item.wanted}"

    def allows(self, value: Any) -> bool:
        if not isinstance(value, list | tuple) or not self.least <= len(value) <= self.most:
            return False
        if not all(self.item.allows(item) for item in value):
            return False
        return self.repeated or len(set(value)) == len(value)


@dataclass(frozen=True, slots=True)
class TableOf:
    """Names, each with a value that `item` allows."""

    item: Limit

    @property
    def wanted(self) -> str:
        return f"names, each with {self.item.wanted}"

    def allows(self, value: Any) -> bool:
        if not isinstance(value, Mapping):
            return False
        return all(Text().allows(key) and self.item.allows(found) for key, found in value.items())


def require(key: str, value: Any, limit: Limit) -> None:
    """Refuse a value that `limit` does not allow.

    Raises:
        ValueError: one sentence with the setting's key, what it may be, and what it is.
    """
    if not limit.allows(value):
        raise ValueError(f"{key} must be {limit.wanted}, got {shown(value)}")


def shown(value: Any) -> str:
    """A value as messages quote it: short, and as in YAML."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def option(limit: Whole | Number) -> Callable[[str], Any]:
    """The `type` of an argparse option within `limit`."""

    def read(text: str) -> Any:
        try:
            value = int(text) if isinstance(limit, Whole) else float(text)
        except ValueError:
            value = math.nan
        if not limit.allows(value):
            raise argparse.ArgumentTypeError(f"must be {limit.wanted}, got {text!r}")
        return value

    return read
