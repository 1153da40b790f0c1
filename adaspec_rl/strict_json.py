"""JSON from elsewhere, read strictly: what its grammar forbids or leaves open is refused.

Python's own reader accepts `NaN`, takes `1e999` for infinity, keeps the last of several equal keys
and exhausts the stack on deep nesting.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

DEPTH = 64  # levels of lists and objects
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")


def read(path: Path, what: str) -> Any:
    """Read the JSON file `path`, in UTF-8 with or without a byte order mark; see `parse`."""
    try:
        return parse(path.read_bytes().decode("utf-8-sig"), what)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{what} is not UTF-8 text (byte {error.start + 1}): save it as UTF-8"
        ) from None


def parse(text: str, what: str) -> Any:
    """The value that the JSON `text` stands for; `what` begins the sentence of each error.

    Raises:
        ValueError: it is not JSON, a number is not finite, an object has a key twice, lists and
            objects are nested deeper than `DEPTH`, or a string holds half of a surrogate pair.
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
