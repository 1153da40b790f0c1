"""JSON from elsewhere, read strictly: what the grammar forbids or leaves open is refused.

Python's own reader accepts `NaN`, reads `1e999` as infinity, keeps the last of several equal keys
and exhausts the stack on deep nesting.
"""

import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

DEPTH = 64  # levels of lists and objects
LARGEST = sys.float_info.max
_WANTED = {
    int: "an integer",
    float: "a finite number",
    str: "a text without control characters",
    type(None): "null",
    tuple: "a list",
    dict: "an object",
}
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # they can forge a terminal's output


def read(path: Path, what: str) -> Any:
    """Read the JSON file `path`, in UTF-8 with or without a byte order mark; see `parse`."""
    try:
        return parse(path.read_bytes().decode("utf-8-sig"), what)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{what} is not UTF-8 text (byte {error.start + 1}): save it as UTF-8"
        ) from None


def parse(text: str, what: str) -> Any:
    """The value of the JSON `text`; `what` is the subject of each error's sentence.

    Raises:
        ValueError: `text` is not JSON, a number is not finite, an object has a key twice, nesting
            is deeper than `DEPTH`, or a string holds half of a surrogate pair.
    """
    if not text.strip():
        raise ValueError(f"{what} is empty: expected JSON")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_float=_float,
            parse_int=_int,
            parse_constant=_refuse_constant,
        )
        _check_depth(value)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"{what} is not JSON: {error.msg} at {place}") from None
    except RecursionError:
        raise ValueError(f"{what} {_too_deep()}") from None
    except ValueError as error:
        raise ValueError(f"{what} {error}") from None
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            raise ValueError(
                f"{what} has half of a surrogate pair ({ascii(half)}) in a text: remove it"
            ) from None
    return value


def typed(kind: Any, value: Any, place: str = "") -> Any:
    """The result of `parse` as an instance of `kind`; every part of it is checked.

    Args:
        kind: None, int, float, str, Any, `tuple[X, ...]`, `dict[str, X]`, or a dataclass of these.
            A dataclass needs all fields without a default, and may have no unknown ones.
        place: the place of `value`, for errors.

    Raises:
        ValueError: a part has another type, or a dataclass refuses its fields.
    """
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _instance(kind, value, place)
    base = get_origin(kind) or kind
    if not _is(base, value):
        raise ValueError(f"{place or 'the file'} is {_shown(value)}: expected {_WANTED[base]}")
    if base is tuple:
        inner = get_args(kind)[0]
        return tuple(typed(inner, item, f"{place}[{n}]") for n, item in enumerate(value))
    if base is dict:
        inner = get_args(kind)[1]
        return {name: typed(inner, item, _under(place, name)) for name, item in value.items()}
    return float(value) if base is float else value


def _instance(kind: Any, value: Any, place: str) -> Any:
    hints = _hints(kind)
    of = f"{place} " if place else ""
    if not isinstance(value, Mapping):
        names = ", ".join(hints)
        raise ValueError(f"{of or 'it '}is {_shown(value)}: expected an object with {names}")
    optional = {field.name for field in fields(kind) if field.default is not MISSING}
    lacking = [name for name in hints if name not in value and name not in optional]
    unknown = [name for name in value if name not in hints]
    if lacking:
        raise ValueError(f"{of}lacks {', '.join(lacking)}")
    if unknown:
        raise ValueError(f"{of}has an unknown {unknown[0]!a:.60}: expected {', '.join(hints)}")
    parts = {
        name: typed(hint, value[name], _under(place, name))
        for name, hint in hints.items()
        if name in value
    }
    try:
        return kind(**parts)
    except ValueError as error:
        raise ValueError(f"{place}: {error}" if place else str(error)) from None


@cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind) if field.init}


def _is(base: Any, value: Any) -> bool:
    if base in (int, float):
        known = int if base is int else (int, float)
        number = isinstance(value, known) and not isinstance(value, bool)
        return number and -LARGEST <= value <= LARGEST
    if base is str:
        return isinstance(value, str) and not _CONTROL.search(value)
    if base is tuple:
        return isinstance(value, (list, tuple))
    return isinstance(value, Mapping if base is dict else base)


def _under(place: str, name: str) -> str:
    name = name if name.isidentifier() else f"{name!a:.60}"
    return f"{place}.{name}" if place else name


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple, Mapping)):
        kind = "an object" if isinstance(value, Mapping) else "a list"
        return f"{kind} of {len(value)}"
    return f"{json.dumps(value):.40}"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"has the key {twice!a:.60} twice in one object: keep one of them")
    return found


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"has the number {text:.30}: expected numbers of at most 1.7e308")
    return number


def _int(text: str) -> int:
    _float(text)
    return int(text)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"has {name} in place of a number: expected finite numbers")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEPTH + 1):
        nested = [item for item in level if isinstance(item, (dict, list))]
        if not nested:
            return
        level = [x for item in nested for x in (item.values() if type(item) is dict else item)]
    raise ValueError(_too_deep())


def _too_deep() -> str:
    return f"nests lists and objects more than {DEPTH} deep: expected a flatter file"
