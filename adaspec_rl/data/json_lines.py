"""JSON-lines files of objects, read strictly: errors name the file and line."""

import codecs
from pathlib import Path
from typing import Any

from adaspec_rl import strict_json

UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_objects(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a file, each with its line number; empty lines are skipped.

    Raises:
        ValueError: there is no such file, it is not UTF-8, or a line is not a strict JSON object.
    """
    if not path.is_file():
        raise ValueError(f"no prompt file {path}: set data.path to a JSON-lines file")
    rows = []
    # Not `splitlines`: JSON strings may hold other line separators, such as U+2028.
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            where = f"{path}, line {number}"
            row = strict_json.parse(line, where)
            if not isinstance(row, dict):
                raise ValueError(f"{where}: expected an object, found {line[:40]}")
            rows.append((number, row))
    return rows


def read_text(path: Path) -> str:
    """A file's text in UTF-8, with or without a byte order mark.

    Raises:
        ValueError: it is not UTF-8; says in which line.
    """
    content = path.read_bytes()
    if content.startswith(UTF_16) or b"\0" in content[:4]:
        raise ValueError(f"{path}, line 1 is UTF-16 or UTF-32 text: save the file as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise ValueError(
            f"{path}, line {number} is not UTF-8 text (byte 0x{byte:02x}): save the file as UTF-8"
        ) from None
