"""An export folder's own description: its origin, its predictions, and what was lost."""

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
    """Throughput relative to plain decoding with `rows` rows, by replay of the exported files."""

    rows: int
    speedup: float
    low: float  # 95% interval over texts
    high: float


@dataclass(frozen=True, slots=True)
class Part:
    """One way of using an export: an engine's files, and their expected gain."""

    name: str
    files: tuple[str, ...]
    use: str  # the command or the argument
    drafters: tuple[int, ...]  # numbers of the policy's drafters that it uses
    predictions: tuple[Prediction, ...] = ()
    lost: tuple[str, ...] = ()  # abilities of the policy that this lacks
    mind: tuple[str, ...] = ()  # what to look out for

    @property
    def drafter(self) -> int | None:
        """The only drafter; None: it uses several."""
        return self.drafters[0] if len(self.drafters) == 1 else None

    @property
    def advice(self) -> str:
        """Whether to use the part, in one sentence."""
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
    """The origin of an export."""

    pair: str
    fingerprint: str  # of the pair
    bundle: str  # checksum
    profile: str  # the device of the costs
    costs: str  # their digest
    recording: str  # for fitted schedules and for predictions
    texts: int  # number withheld from fitting
    temperature: float
    drafters: tuple[str, ...]
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class Export:
    """The contents of an export folder."""

    to: str
    interface: str  # the engine's version or documents that the files follow
    source: Source
    parts: tuple[Part, ...]

    def part(self, name: str) -> Part:
        """The part called `name`.

        Raises:
            ValueError: there is no such part.
        """
        for part in self.parts:
            if part.name == name:
                return part
        raise ValueError(
            f"the export to {self.to} has no part {name!r}: expected one of "
            f"{', '.join(part.name for part in self.parts)}"
        )

    def with_predictions(self, found: Mapping[str, tuple[Prediction, ...]]) -> "Export":
        """A copy with these predictions, by part name."""
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
        ValueError: there is no such file, or it is damaged.
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
