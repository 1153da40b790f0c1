"""Predict from an engine's own reports: `python -m adaspec_rl.interop.predict FILE … [KEY=VALUE]`.

Reads the outcomes of drafts (vLLM's per-request metrics or Prometheus counters, SGLang's meta_info,
llama.cpp's log) and fits how far drafts survive. It predicts the speedup of other draft lengths,
and of an exported schedule or adaptive policy, before anything is deployed.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from adaspec_rl.config_limits import LENGTH, SIZE, TEXT
from adaspec_rl.console import say, standard_output
from adaspec_rl.costs.conversion import batch_costs
from adaspec_rl.costs.profile import CostProfile, RoundCosts
from adaspec_rl.files import write_atomically
from adaspec_rl.interop.acceptance import Estimate, Fit, by_position, fit, request_chances
from adaspec_rl.interop.exported import Prediction, load_export
from adaspec_rl.interop.readers import FORMATS, read_all
from adaspec_rl.interop.replayed import Replayable, predictions
from adaspec_rl.limits import Number, OrNull
from adaspec_rl.recording.texts import Text
from adaspec_rl.recording.trace import DraftTable, Trace
from adaspec_rl.settings import describe, one_line_errors, parse, setting

EDGES = (0, 32, 128, 512)  # tokens of the generated text
TEXTS, LENGTHS = 32, (32, 128)  # least number of simulated texts; tokens of each
PROMPT = 16  # tokens of a simulated prompt
BLIND = ("schedule", "ema", "actor", "table")  # exported parts that do not read the text
STEP = Number(0, 100)


@dataclass
class PredictConfig:
    """The costs and settings of a prediction."""

    costs: str | None = setting(
        None, "a cost profile, as cost_profile.json of a run; null: the next three", OrNull(TEXT)
    )
    draft_step: float = setting(0.05, "of a plain step: one drafted token", STEP)
    verification_step: float = setting(0.02, "likewise: one more verified token", STEP)
    overhead: float = setting(0.01, "likewise: a round with a draft, beyond its passes", STEP)
    rows: int = setting(1, "texts at a time; the costs must be known for it", SIZE)
    max_length: int = setting(8, "the longest draft that is predicted", LENGTH)
    export: str | None = setting(None, "an export's folder, to predict its parts", OrNull(TEXT))
    out: str | None = setting(None, "a JSON file for the figures", OrNull(TEXT))


@dataclass(frozen=True, slots=True)
class Predicted:
    """All figures of a prediction."""

    chances: list[float]  # of drafted token 1, 2, …, if all before it were accepted
    measured: int
    complete: bool
    requests: int
    positions: list[tuple[int, int, int]]
    accepted: dict[int, Estimate]  # by draft length
    speedup: dict[int, Estimate]
    parts: dict[str, Prediction]

    @property
    def best(self) -> int:
        """The draft length with the highest throughput; 0: plain decoding."""
        lengths = [length for length, found in self.speedup.items() if found.value > 1]
        return max(lengths, key=lambda length: self.speedup[length].value, default=0)


def predict(files: Sequence[Path], config: PredictConfig) -> Predicted:
    """Predict from what `files` report.

    Raises:
        ValueError: a file or setting is invalid.
    """
    found = fit(read_all(files))
    profile = _profile(config)
    costs = profile.at(None, config.rows)
    lengths = range(1, min(config.max_length, costs.max_length) + 1)
    return Predicted(
        chances=found.chances.tolist(),
        measured=found.measured,
        complete=found.complete,
        requests=found.requests,
        positions=by_position(found.counts, EDGES),
        accepted={length: found.accepted(length) for length in lengths},
        speedup={length: found.speedup(length, costs) for length in lengths},
        parts=_parts(Path(config.export), found, profile, config.rows) if config.export else {},
    )


def _profile(config: PredictConfig) -> CostProfile:
    if config.costs:
        return CostProfile.load(Path(config.costs)).of_drafters([0])
    widths = range(config.max_length + 1)
    point = RoundCosts(
        context=1,
        batch_size=config.rows,
        autoregressive_step=1.0,
        draft_step=(max(config.draft_step, 1e-9),),
        stopping_step=(0.0,),
        verification=tuple(1.0 + config.verification_step * width for width in widths),
        overhead=(config.overhead,),
        catch_up=(0.0,),
    )
    return CostProfile("as given", 0.0, (point,))


def _parts(folder: Path, found: Fit, profile: CostProfile, rows: int) -> dict[str, Prediction]:
    """Predictions for an export's parts on simulated texts with these requests' acceptance."""
    from adaspec_rl.interop.export import KINDS  # it needs torch, which reports do not

    there = load_export(folder)
    parts = {
        name: Replayable(part.make, 0, part.drafts)
        for name, part in KINDS[there.to].replayables(folder, there).items()
        if name in BLIND
    }
    if not parts:
        raise ValueError(
            f"{folder} has no part that decides without reading the text, which counts do not "
            f"tell: expected one of {', '.join(BLIND)}"
        )
    trace = simulated(found, profile.max_length)
    made = predictions(parts, trace, batch_costs(profile), [rows])
    return {name: one for name, (one,) in made.items()}


def simulated(found: Fit, depth: int, seed: int = 0) -> Trace:
    """Texts with the requests' acceptance, each with one request's own chances."""
    rng = np.random.default_rng(seed)
    own = request_chances(found, rng)
    deeper = np.repeat(own[:, -1:], max(0, depth - own.shape[1]), axis=1)
    own = np.concatenate([own, deeper], axis=1)[:, :depth]
    order = np.resize(np.arange(len(own)), max(TEXTS, len(own))).tolist()
    lengths = [_tokens(found, number) for number in order]
    kept = np.concatenate(
        [
            (rng.random((count, depth)) < own[number]).cumprod(axis=1).sum(axis=1)
            for number, count in zip(order, lengths)
        ]
    )
    shape = (len(kept), depth)
    survival = np.concatenate(
        [np.tile(own[number].cumprod(), (count, 1)) for number, count in zip(order, lengths)]
    )
    table = DraftTable(
        "simulated",
        tokens=np.zeros(shape, dtype=np.int32),
        accepted=kept.astype(np.int32),
        signals=np.zeros((*shape, 4), dtype=np.float32),
        survival=survival.astype(np.float32),
    )
    texts = [_text(number, count) for number, count in enumerate(lengths)]
    return Trace.assemble("simulated", texts, ["simulated"] * len(texts), [table], depth)


def _tokens(found: Fit, number: int) -> int:
    """The length of the request's text, within limits."""
    counts = found.counts[number]
    return int(np.clip(counts.rounds + counts.accepted.sum(), *LENGTHS))


def _text(number: int, count: int) -> Text:
    nothing = np.zeros(count, dtype=np.float32)
    prompt = np.full(PROMPT, number, dtype=np.int64)
    tokens = np.arange(count, dtype=np.int64)
    return Text(prompt, number, tokens, "length", count + 64, nothing, nothing)


def shown(found: Predicted, console: Console) -> None:
    """Print a prediction."""
    table = Table("draft length", "accepted", "speedup", "interval", title="fixed draft lengths")
    for length, speedup in found.speedup.items():
        beyond = "" if length <= found.measured else " *"
        accepted = f"{found.accepted[length].value:.2f}"
        interval = f"{speedup.low:.2f} to {speedup.high:.2f}"
        table.add_row(f"{length}{beyond}", accepted, f"{speedup.value:.2f} ×", interval)
    console.print(table)
    chances = ", ".join(f"{chance:.0%}" for chance in found.chances)
    say(console, f"accepted, given that all before were: {chances} ({found.requests} reports)")
    if found.measured < len(found.speedup):
        say(console, f"* beyond the {found.measured} tokens that were drafted, the last goes on")
    for edge, hits, drafts in found.positions:
        say(console, f"from token {edge}: {hits / drafts:.0%} of {drafts} first tokens accepted")
    if not found.complete:
        say(
            console,
            "lower bounds: the reports leave out how many tokens each round drafted, so that short "
            "drafts look like rejections",
        )
    for name, part in found.parts.items():
        interval = f"{part.low:.2f} to {part.high:.2f}"
        say(console, f"{name} of the export: {part.speedup:.2f} × ({interval})")
    advice = f"draft {found.best} tokens" if found.best else "do not speculate: nothing pays"
    say(console, f"by these costs: {advice}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: files and `key=value` settings, or `--help`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(given):
        print(f"{__doc__}\nFiles: {FORMATS}.\nSettings:\n{describe(PredictConfig)}")
        return
    with one_line_errors():
        known = tuple(f"{name}=" for name in PredictConfig.__dataclass_fields__)
        settings = [item for item in given if item.startswith(known)]
        files = [Path(item) for item in given if item not in settings]
        if not files:
            raise ValueError(f"no file given: expected {FORMATS}")
        config = parse(PredictConfig, settings)
        found = predict(files, config)
        shown(found, standard_output())
        if config.out:
            write_atomically(Path(config.out), json.dumps(_figures(found), indent=2) + "\n")


def _figures(found: Predicted) -> dict[str, Any]:
    return {**asdict(found), "best": found.best}


if __name__ == "__main__":
    main()
