"""Export a policy to another engine: `python -m adaspec_rl.interop.export policy=FOLDER to=vllm`.

Writes the engine's own configuration, fitted to the costs of rounds and to the recording that the
policy learned from. To predict the speedup, the files are loaded back and replayed on texts that
nothing was fitted on. `export.json` has the predictions, what was lost, and what to look out for.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from adaspec_rl.config_limits import SIZE, TEXT, THREADS
from adaspec_rl.console import say, standard_output
from adaspec_rl.files import new_folder
from adaspec_rl.interop import (
    to_llama_cpp,
    to_onnx,
    to_sglang,
    to_table,
    to_tensorrt_llm,
    to_vllm,
)
from adaspec_rl.interop.exported import Export, Part, Prediction, load_export
from adaspec_rl.interop.replayed import Replayable, predictions
from adaspec_rl.interop.workshop import Workshop, opened
from adaspec_rl.limits import OrNull, Whole, Words
from adaspec_rl.settings import describe, one_line_errors, parse, setting


class Kind(Protocol):
    """A module that writes the files of one kind of export, and loads them back."""

    INTERFACE: str

    def write(self, shop: Workshop, folder: Path) -> list[Part]: ...

    def replayables(self, folder: Path, export: Export) -> dict[str, Replayable]: ...


KINDS: dict[str, Kind] = {
    "vllm": to_vllm,
    "sglang": to_sglang,
    "tensorrt-llm": to_tensorrt_llm,
    "llama.cpp": to_llama_cpp,
    "table": to_table,
    "onnx": to_onnx,
}


@dataclass
class ExportConfig:
    """The policy, the engine, and the settings of the export."""

    policy: str = setting("???", "the bundle's folder", TEXT)
    to: str = setting("???", f"one of {', '.join(KINDS)}", Words(*KINDS))
    out: str | None = setting(None, "where to; null: exports/TO beside the bundle", OrNull(TEXT))
    run: str | None = setting(
        None, "the folder that train_policy.py wrote; null: the bundle's", OrNull(TEXT)
    )
    runs: str = setting("runs", "the folder that recordings lie in, in traces/", TEXT)
    costs: str | None = setting(
        None, "batch costs to predict with, a file; null: the bundle's profile", OrNull(TEXT)
    )
    drafter: str | None = setting(
        None, "for engines with a single one; null: the fastest that they can have", OrNull(TEXT)
    )
    tiers: int = setting(4, "the most different draft lengths", Whole(1, 64))
    max_rows: int = setting(256, "the most texts that the engine decodes at a time", SIZE)
    threads: int | None = setting(None, "of torch on the CPU; null: one a core", THREADS)


def export(config: ExportConfig, console: Console) -> tuple[Path, Export]:
    """Write the export that `config` describes; returns the folder and its description.

    Raises:
        ValueError: a setting or the policy is invalid, or the export cannot be made.
    """
    torch.set_num_threads(config.threads or os.cpu_count() or 1)
    policy = Path(config.policy)
    shop = opened(
        policy,
        Path(config.run) if config.run else policy.parent,
        config.runs,
        console,
        costs=Path(config.costs) if config.costs else None,
        drafter=config.drafter,
        tiers=config.tiers,
        max_rows=config.max_rows,
    )
    folder = Path(config.out) if config.out else policy.parent / "exports" / config.to
    return folder, written(config.to, shop, folder)


def written(to: str, shop: Workshop, folder: Path) -> Export:
    """Write an export, and predict its speedups from its files."""
    kind = KINDS[to]
    with new_folder(folder) as fresh:
        parts = tuple(kind.write(shop, fresh))
        made = Export(to, kind.INTERFACE, shop.source(), parts)
        made = made.with_predictions(predicted(fresh, made, shop))
        made.save(fresh)
    return made


def predicted(folder: Path, found: Export, shop: Workshop) -> dict[str, tuple[Prediction, ...]]:
    """Each part's predicted speedups, by replay of the files in the folder."""
    if not found.parts:
        return {}
    parts = KINDS[found.to].replayables(folder, found)
    return predictions(parts, shop.withheld, shop.costs, shop.sizes)


def repredicted(folder: Path, shop: Workshop) -> dict[str, tuple[Prediction, ...]]:
    """New predictions for an existing export."""
    return predicted(folder, load_export(folder), shop)


def shown(found: Export, console: Console) -> None:
    """Print an export's description."""
    table = Table("part", "texts at a time", "predicted", "interval", title=f"to {found.to}")
    for part in found.parts:
        for one in part.predictions:
            interval = f"{one.low:.2f} to {one.high:.2f}"
            table.add_row(Text(part.name), str(one.rows), f"{one.speedup:.2f} ×", interval)
    console.print(table)
    for part in found.parts:
        say(console, f"{part.name}: {part.advice}")
        say(console, f"  {part.use}")
        for line in part.lost:
            say(console, f"  lost: {line}")
        for line in part.mind:
            say(console, f"  mind: {line}")
    if not found.parts:
        say(console, "nothing to export: plain decoding is fastest, do not speculate here")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: `key=value` settings, or `--help`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(given):
        print(f"{__doc__}\nSettings:\n{describe(ExportConfig)}")
        return
    with one_line_errors():
        console = standard_output()
        folder, found = export(parse(ExportConfig, given), console)
        shown(found, console)
        say(console, f"written: {folder}")


if __name__ == "__main__":
    main()
