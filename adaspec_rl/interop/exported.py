"""What a folder of exports says of itself: where it is from, what it predicts, what was lost."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from adaspec_rl import strict_json
from adaspec_rl.files import write_atomically

SCHEMA = 1
FILE = "export.json"


@dataclass(frozen=True, slots=True)
class Prediction:
    """Throughput over plain decoding's with so many rows, by replay of what was exported."""

    rows: int
    speedup: float
    low: float  # 95% interval over texts
    high: float


@dataclass(frozen=True, slots=True)
class Part:
    """One way of using an export: files of an engine, and what they are expected to bring."""

    name: str
    files: tuple[str, ...]
    use: str  # the command or the argument
    drafters: tuple[int, ...]  # those of the policy that it uses, by number
    predictions: tuple[Prediction, ...] = ()
    lost: tuple[str, ...] = ()  # what the policy could do and this cannot
    mind: tuple[str, ...] = ()  # what to look out for

    @property
    def drafter(self) -> int | None:
        """The only one; None: it uses several."""
        return self.drafters[0] if len(self.drafters) == 1 else None

    @property
    def advice(self) -> str:
        """Whether to use it, in a sentence."""
        worth = [p.rows for p in self.predictions if p.low > 1]
        even = [p.rows for p in self.predictions if p.high > 1 and p.rows not in worth]
        if worth:
            rows = ", ".join(map(str, worth))
            return f"use it where {rows} texts are decoded at a time: it is faster than without"
        if even:
            return "it makes no clear difference here: measure before you use it"
        if not self.predictions:
            return "it was not replayed"
        return "do not speculate here: plain decoding is as fast or faster at every batch size"


@dataclass(frozen=True, slots=True)
class Source:
    """What was exported."""

    pair: str
    fingerprint: str  # of the pair
    bundle: str  # checksum
    profile: str  # device that costs are of
    costs: str  # digest
    recording: str  # that schedules were fitted on and predictions were replayed from
    texts: int  # withheld from fitting
    temperature: float
    drafters: tuple[str, ...]
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class Export:
    """All of a folder."""

    to: str
    interface: str  # the engine's version or documents that the files are written for
    source: Source
    parts: tuple[Part, ...]

    def part(self, name: str) -> Part:
        """By name.

        Raises:
            ValueError: there is none of that name.
        """
        for part in self.parts:
            if part.name == name:
                return part
        raise ValueError(
            f"the export to {self.to} has no part {name!r}: expected one of "
            f"{', '.join(part.name for part in self.parts)}"
        )

    def with_predictions(self, found: Mapping[str, tuple[Prediction, ...]]) -> "Export":
        """The same with the predictions of parts by name."""
        parts = tuple(replace(part, predictions=found[part.name]) for part in self.parts)
        return replace(self, parts=parts)

    def save(self, folder: Path) -> None:
        """Write `export.json`."""
        content: dict[str, Any] = {"schema": SCHEMA, **asdict(self)}
        for part, said in zip(self.parts, content["parts"]):
            said["advice"] = part.advice
        write_atomically(folder / FILE, json.dumps(content, indent=2) + "\n")


def load_export(folder: Path) -> Export:
    """Read what `Export.save` wrote.

    Raises:
        ValueError: there is nothing of the kind, or it is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        raise ValueError(f"{folder} is no export: it has no {FILE}")
    content = strict_json.read(path, f"{path}")
    found = content.pop("schema", None) if isinstance(content, dict) else None
    if found != SCHEMA:
        raise ValueError(f"{path} has schema {found!a:.40}: expected {SCHEMA}; export anew")
    for part in content.get("parts", ()):
        part.pop("advice", None)
    try:
        return strict_json.typed(Export, content)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): export anew") from None
