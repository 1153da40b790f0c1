"""Where the gap goes: `python benchmarks/gap.py --seeds 5 --json FILE --plot FILE`.

The oracle gains over the best fixed drafter and length in hindsight, partly by luck (it knows the
noise) and partly by knowledge (it knows every chance). This measures both parts, and how much of
the knowledge a policy has learned, in replay of held-out prompts, by kind of text and temperature.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from policy import HeldOut, Place, interval
from report import finish
from rich.console import Console

from adaspec_rl.control.learned import Actor
from adaspec_rl.from_config import sampling_from, set_threads
from adaspec_rl.recording.chances import survival_chances
from adaspec_rl.replay.foreseeable import foreseeable
from adaspec_rl.training.train import Task, learn

ALL = "all"


def parts_of(
    held: HeldOut, chances: np.ndarray, actors: Sequence[Actor], task: Task, kind: str
) -> dict[str, Any]:
    """The bounds and the policies on the held-out texts of one kind, or on all of them."""
    chosen = [n for n, name in enumerate(held.domains) if kind in (ALL, name)]
    rows = np.concatenate(
        [np.arange(held.trace.starts[n], held.trace.starts[n + 1]) for n in chosen]
    )
    here = HeldOut.of(held.trace.select(chosen), held.profile)
    bound = foreseeable(here.trace, here.profile, chances[..., rows]).speedup
    learned = [here.speedup(actor, task) for actor in actors]
    mean, low, high = interval(learned)
    best, knowledge = here.best_fixed, bound - here.best_fixed
    return {
        "best_fixed": best,
        "best_action": str(here.best_action),
        "foreseeable": bound,
        "oracle": here.oracle,
        "learned": {"mean": mean, "ci95": [low, high], "seeds": learned},
        "luck": here.oracle - bound,
        "knowledge": knowledge,
        "captured": (mean - best) / knowledge if knowledge > 0 else float("nan"),
    }


def temperature_parts(
    options: argparse.Namespace, temperature: float, console: Console
) -> dict[str, dict[str, Any]]:
    """The parts of all kinds of text at one temperature."""
    place = Place.of(
        [f"env.temperature={temperature}", *options.overrides], options.prompts, console
    )
    config, task = place.config, place.task
    held = place.held
    chances = survival_chances(
        task.pair.target,
        task.pair.drafters,
        held.trace.texts,
        sampling_from(config.env),
        held.trace.max_length,
    )
    actors = []
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            actors.append(learn(replace(config, seed=seed), task, Path(folder), console).actor)
    kinds = [ALL, *dict.fromkeys(held.domains.tolist())]
    found = {kind: parts_of(held, chances, actors, task, kind) for kind in kinds}
    for kind, part in found.items():
        console.print(
            f"t {temperature:g}, {kind}: best fixed {part['best_fixed']:.3f}, learned "
            f"{part['learned']['mean']:.3f}, foreseeable {part['foreseeable']:.3f}, oracle "
            f"{part['oracle']:.3f}: {part['captured']:.0%} of the knowledge"
        )
    return found


def plot(parts: dict[str, dict[str, dict[str, Any]]], path: Path) -> None:
    """A bar for each temperature and kind of text: best fixed, learned, foreseeable, oracle."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    bars = [(t, kind, part) for t, kinds in parts.items() for kind, part in kinds.items()]
    figure, axes = plt.subplots(figsize=(8, 0.45 * len(bars) + 1.2))
    labels = [f"{kind}, {t}" for t, kind, _ in bars]
    best = np.array([part["best_fixed"] for *_, part in bars])
    learned = np.array([part["learned"]["mean"] for *_, part in bars])
    bound = np.array([part["foreseeable"] for *_, part in bars])
    oracle = np.array([part["oracle"] for *_, part in bars])
    rows = np.arange(len(bars))[::-1]
    left = best.copy()
    axes.barh(rows, best, color="#b8b8b8", label="best fixed in hindsight")
    for values, colour, label in (
        (learned, "#1b7f5c", "learned"),
        (bound, "#8fd0b5", "could be foreseen"),
        (oracle, "#f0d9a8", "luck (oracle)"),
    ):
        width = np.maximum(values - left, 0)
        axes.barh(rows, width, left=left, color=colour, label=label)
        left = np.maximum(left, values)
    axes.set_yticks(rows, labels)
    axes.set_xlim(left=min(1.0, best.min()))
    axes.set_xlabel("speedup over plain decoding (replayed, held-out prompts)")
    for row, value, fixed in zip(rows, learned, best):
        if value < fixed:
            axes.plot([value, value], [row - 0.4, row + 0.4], color="#a33b2a")
            axes.annotate("learned, behind", (value, row + 0.4), color="#a33b2a", fontsize=7)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=4, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.8])
    parser.add_argument("--prompts", type=int, help="held out, a domain; all by default")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("overrides", nargs="*", help="as for train_policy.py")
    options = parser.parse_intermixed_args(arguments)
    set_threads(None)
    console = Console()
    parts = {f"t {t:g}": temperature_parts(options, t, console) for t in options.temperatures}
    figures = {f"captured_{t.replace(' ', '')}": part[ALL]["captured"] for t, part in parts.items()}
    if options.plot:
        plot(parts, options.plot)
    finish(figures, options.json, details={"details": parts})


if __name__ == "__main__":
    main()
