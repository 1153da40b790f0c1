"""Batched decoding in replay, by load: `python benchmarks/batch_replay.py --json FILE`.

Replays the embedded pair's held-out prompts in batches of 1 to 512 rows under every batch
controller, at the costs in a file, by default those modelled for an H200. Controllers are tuned or
trained on the training prompts. Each is charged the time that it takes to observe, decide, allot
and learn on this machine, in NumPy on one core: the median of several timings, in which all
controllers take turns. Speedups have 95% intervals over texts; that of the learned controller
against the best baseline is widened to cover the intervals at every single timing.
"""

import argparse
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from policy import configured
from report import finish
from rich.console import Console

from adaspec_rl.comparison.batch_contestants import LEARNED, LOADS, OWN, contestants, order_of
from adaspec_rl.comparison.statistics import paired_ratio_interval
from adaspec_rl.config import CONF
from adaspec_rl.control.batch_controller import BatchController
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.costs.batch_costs import BatchCosts
from adaspec_rl.from_config import pair_from, recording_from, set_threads
from adaspec_rl.prompts import prompts_from
from adaspec_rl.replay.batch_replay import DecisionCosts, Totals, measure_deciding, replay
from adaspec_rl.replay.batch_rows import BatchTables

GROUPS = ("history", "drafters", "target", "draft", "context", "lookup")
WAVES = 6  # texts a row, at least
TIMINGS = 5  # of every controller's decisions, at each load
COSTS = CONF / "batch_cost" / "h200_modelled.json"


def timed(
    times: int, makers: Mapping[str, Callable[[], DecisionCosts]]
) -> dict[str, list[DecisionCosts]]:
    """Each controller's timings; all take turns, in random order."""
    rng, found = random.Random(0), defaultdict(list)
    for _ in range(times):
        for name in rng.sample(list(makers), len(makers)):
            found[name].append(makers[name]())
    return found


def middle(timings: Sequence[DecisionCosts], rows: int) -> DecisionCosts:
    """The median of some timings at a load."""
    spent = [one.seconds(rows, True) + one.seconds(rows, False) for one in timings]
    return timings[sorted(range(len(spent)), key=spent.__getitem__)[len(spent) // 2]]


def compared(ours: Totals, theirs: Totals) -> list[float]:
    """Throughput divided by another controller's, and the 95% interval over texts."""
    both = (ours.seconds > 0) & (theirs.seconds > 0)
    parts = [values[both] for t in (ours, theirs) for values in (t.tokens, t.seconds)]
    return [ours.throughput / theirs.throughput, *paired_ratio_interval(*parts)]


def widened(found: Sequence[float], others: Sequence[Sequence[float]]) -> list[float]:
    """A comparison whose interval covers those of the same comparison at other timings."""
    ratio, low, high = found
    return [ratio, min(low, *(o[1] for o in others)), max(high, *(o[2] for o in others))]


@dataclass(frozen=True, slots=True)
class Contest:
    """All controllers on the held-out texts."""

    tables: BatchTables
    costs: BatchCosts
    makers: Mapping[str, Callable[[int], BatchController]]
    texts: int  # decoded at each load, at least

    def play(self, name: str, rows: int, deciding: DecisionCosts) -> Totals:
        """One controller's totals at a load."""
        order = order_of(self.tables.trace, rows, max(self.texts, WAVES * rows), 0)
        return replay(self.tables, self.costs, self.makers[name](rows), order, rows, deciding)

    def figures(self, rows: int) -> dict[str, Any]:
        """The figures of all controllers at one load."""
        ways = {
            name: partial(measure_deciding, self.tables, self.costs, make, [rows])
            for name, make in self.makers.items()
        }
        timings = timed(TIMINGS, ways)
        usual = {name: middle(found, rows) for name, found in timings.items()}
        played = {name: self.play(name, rows, took) for name, took in usual.items()}
        rivals = {name: total for name, total in played.items() if name not in OWN}
        strongest = max(rivals, key=lambda name: rivals[name].throughput)
        again = (
            compared(self.play(LEARNED, rows, own), self.play(strongest, rows, its))
            for own, its in zip(timings[LEARNED], timings[strongest])
        )
        ratio = compared(played[LEARNED], played[strongest])
        return {
            "rows": rows,
            "best_baseline": strongest,
            "learned_vs_best_baseline": widened(ratio, list(again)),
            "controllers": {
                name: {
                    "tokens_per_second": total.throughput,
                    "speedup": compared(total, played["plain"]),
                    "rounds": total.rounds,
                    "drafted": total.drafted,
                    "verified": total.verified,
                    "thrown_away": total.drafted - total.accepted,
                    "deciding_seconds_with_a_look": usual[name].seconds(rows, True),
                    "deciding_seconds": usual[name].seconds(rows, False),
                }
                for name, total in played.items()
            },
        }


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--costs", type=Path, default=COSTS)
    parser.add_argument("--loads", type=int, nargs="+", default=LOADS)
    parser.add_argument("--texts", type=int, default=160, help="decoded at each load, at least")
    parser.add_argument("--tuning-texts", type=int, default=96, help="likewise, while tuning")
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", help="as for train_policy.py")
    options = parser.parse_intermixed_args(arguments)
    set_threads(None)
    console = Console()
    config = configured(options.overrides)
    pair = pair_from(config.model, config.engine)
    costs = BatchCosts.load(options.costs)
    training = prompts_from(config, "train", pair, console, config.replay.prompts)
    trace, heads = recording_from(config, pair, training, console)
    prompts = prompts_from(config, "test", pair, console)
    held_out, _ = recording_from(config, pair, prompts, console, heads=heads)
    spec = ObservationSpec(
        GROUPS, config.env.max_length, pair.target.vocab_size, len(pair.drafters)
    )
    learning = BatchTables(trace)

    def taken(make: Callable[[], BatchController]) -> DecisionCosts:
        timings = [measure_deciding(learning, costs, lambda rows: make()) for _ in range(TIMINGS)]
        return middle(timings, max(options.loads))

    makers = contestants(
        learning,
        costs,
        spec,
        options.tuning_texts,
        console,
        loads=options.loads,
        deciding=taken,
    )
    contest = Contest(BatchTables(held_out), costs, makers, options.texts)
    figures: dict[str, float] = {}
    loads = []
    for rows in options.loads:
        found = contest.figures(rows)
        ratio, low, high = found["learned_vs_best_baseline"]
        speedups = {name: one["speedup"][0] for name, one in found["controllers"].items()}
        console.print(
            f"{rows} rows: learned ÷ {found['best_baseline']} {ratio:.3f} ({low:.3f} to "
            f"{high:.3f}); " + ", ".join(f"{name} {value:.3f}" for name, value in speedups.items())
        )
        figures[f"learned_vs_best_baseline_{rows}"] = ratio
        figures[f"learned_vs_plain_{rows}"] = speedups[LEARNED]
        loads.append(found)
    finish(figures, options.json, details={"costs": costs.device, "loads": loads})


if __name__ == "__main__":
    main()
