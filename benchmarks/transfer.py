"""Does a policy transfer? `python benchmarks/transfer.py --json FILE`.

Policies that learned from one kind of text are replayed on held-out prompts of every kind. Policies
that learned from 1, 2, 4, … prompts of each kind show how many prompts are needed. With `--to`, the
policy of the pair in the overrides also decodes texts of another pair with as many drafters, and a
policy of that pair decodes texts of this one, each at the costs of the texts' pair.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from policy import HeldOut, Place, interval
from report import finish
from rich.console import Console

from adaspec_rl.control.learned import Actor
from adaspec_rl.from_config import set_threads
from adaspec_rl.training.train import learn


def learned(place: Place, chosen: Sequence[int], seeds: int, console: Console) -> list[Actor]:
    """Policies that learned from the training texts with the `chosen` numbers."""
    own = replace(place.task, trace=place.task.trace.select(chosen))
    actors = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            config = replace(place.config, seed=seed)
            actors.append(learn(config, own, Path(folder), console).actor)
    return actors


def speedups(place: Place, actors: Sequence[Actor], kind: str | None = None) -> dict[str, Any]:
    """The policies' speedups on the held-out texts of one kind, or on all of them."""
    held = place.held
    if kind is not None:
        rows = [n for n, name in enumerate(held.domains) if name == kind]
        held = HeldOut.of(held.trace.select(rows), held.profile)
    found = [held.speedup(actor, place.task) for actor in actors]
    mean, low, high = interval(found)
    best = held.best_fixed
    return {"mean": mean, "ci95": [low, high], "seeds": found, "best_fixed": best}


def texts(place: Place, kind: str | None = None, most: int | None = None) -> list[int]:
    """Numbers of training texts: of one kind, or the first `most` of each kind."""
    found: list[int] = []
    for name in dict.fromkeys(place.task.trace.domains):
        if kind in (None, name):
            own = [n for n, domain in enumerate(place.task.trace.domains) if domain == name]
            found += own[:most]
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--prompts", type=int, help="held out, a domain; all by default")
    parser.add_argument("--to", nargs="+", default=[], help="overrides of another pair")
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", help="as for train_policy.py")
    options = parser.parse_args(arguments)
    set_threads(None)
    console = Console()
    here = Place.of(options.overrides, options.prompts, console)
    kinds = list(dict.fromkeys(here.task.trace.domains))
    across: dict[str, Any] = {}
    for kind in kinds:
        actors = learned(here, texts(here, kind), options.seeds, console)
        across[kind] = {other: speedups(here, actors, other) for other in kinds}
    whole = learned(here, texts(here), options.seeds, console)
    across["all"] = {other: speedups(here, whole, other) for other in kinds}
    few: dict[int, Any] = {}
    count = 2  # the fewest that leave one text to choose the best policy
    while count < len(here.task.trace.texts) // len(kinds):
        few[count] = speedups(here, learned(here, texts(here, most=count), options.seeds, console))
        count *= 2
    few[len(here.task.trace.texts) // len(kinds)] = speedups(here, whole)
    details: dict[str, Any] = {"across_kinds": across, "prompts_of_each_kind": few}
    if options.to:
        there = Place.of(options.to, options.prompts, console)
        own = learned(there, texts(there), options.seeds, console)
        details["across_pairs"] = {
            "here": speedups(here, whole),
            "from_there": speedups(here, own),
            "there": speedups(there, own),
            "from_here": speedups(there, whole),
        }
    figures = {
        f"{kind}_to_{other}": item["mean"] / across["all"][other]["mean"]
        for kind, items in across.items()
        if kind != "all"
        for other, item in items.items()
        if other != kind
    }
    figures |= {f"with_{number}_prompts": item["mean"] for number, item in few.items()}
    finish(figures, options.json, details={"details": details})


if __name__ == "__main__":
    main()
