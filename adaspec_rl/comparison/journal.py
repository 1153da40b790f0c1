"""Generations saved as they are made, so that an interrupted comparison can be resumed."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from adaspec_rl.comparison.benchmark import Record
from adaspec_rl.comparison.memory import MemoryUse
from adaspec_rl.control.generation import Generation
from adaspec_rl.decoding.round import Round
from adaspec_rl.files import write_atomically
from adaspec_rl.run_identity import differences

ROUND_FIELDS = tuple(field.name for field in fields(Round))


class Journal:
    """A JSON-lines file: the settings, then one line per prompt with every method's generation.

    A last line that was cut off because the process was killed is ignored.
    """

    def __init__(
        self, path: Path, settings: Mapping[str, Any], *, prompts: Sequence[str] | None = None
    ) -> None:
        """Open or begin the journal of a comparison under `settings`.

        Args:
            prompts: ids of all compared prompts, in order; None: not checked.

        Raises:
            ValueError: the file belongs to another comparison, or is damaged before its last line.
        """
        self.path = path
        header = json.dumps(settings)
        lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else [""]
        whole = lines[:-1]  # the last line is empty, or was cut off
        if whole and whole[0] != header:
            raise ValueError(
                f"{path} holds another comparison ({_difference(whole[0], settings)}): choose "
                "another folder, or repeat the command that began it"
            )
        try:
            self.prompts = [[_record(row) for row in json.loads(line)] for line in whole[1:]]
            if prompts is not None:
                _check_order(self.prompts, prompts)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error}): delete it and start anew") from None
        if not whole:
            write_atomically(path, header + "\n")
        elif lines[-1]:
            write_atomically(path, "\n".join(whole) + "\n")

    def append(self, records: Sequence[Record]) -> None:
        """Write all methods' generations after one prompt."""
        line = json.dumps([_row(record) for record in records])
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.prompts.append(list(records))


def _difference(header: str, settings: Mapping[str, Any]) -> str:
    try:
        return differences(json.loads(header), settings)
    except (AttributeError, ValueError):
        return "its first line is damaged"


def _check_order(found: Sequence[Sequence[Record]], prompts: Sequence[str]) -> None:
    """Check that each line holds the next prompt's generations, one of every method."""
    if len(found) > len(prompts):
        raise ValueError(f"{len(found)} lines for {len(prompts)} prompts")
    methods = {record.method for record in found[0]} if found else set()
    for records, prompt in zip(found, prompts):
        names = [record.method for record in records]
        if {record.prompt for record in records} != {prompt} or sorted(names) != sorted(methods):
            raise ValueError(f"the line of prompt {prompt} holds something else")


def _row(record: Record) -> dict[str, Any]:
    made = record.generation
    return {
        "method": record.method,
        "prompt": record.prompt,
        "domain": record.domain,
        "tokens": made.tokens,
        "finished": made.finished,
        "seconds": made.seconds,
        "controller_seconds": made.controller_seconds,
        "decisions": record.decisions,
        "memory": asdict(record.memory) if record.memory else None,
        "forecasts": made.forecasts,
        "rounds": [[getattr(played, name) for name in ROUND_FIELDS] for played in made.rounds],
    }


def _record(row: Mapping[str, Any]) -> Record:
    rounds = [Round(*_untabled(values)) for values in row["rounds"]]
    made = Generation(
        row["tokens"], row["finished"], rounds, row["seconds"], row["controller_seconds"]
    )
    made.forecasts = [forecast and tuple(forecast) for forecast in row["forecasts"]]
    use = MemoryUse(**row["memory"]) if row["memory"] else None
    return Record(row["method"], row["prompt"], row["domain"], made, tuple(row["decisions"]), use)


def _untabled(values: Sequence[Any]) -> list[Any]:
    """Lists as tuples, which JSON does not have."""
    return [tuple(value) if isinstance(value, list) else value for value in values]
