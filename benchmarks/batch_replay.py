"""Batched decoding in replay, by load: `python benchmarks/batch_replay.py --json FILE`.

Replays the embedded pair's held-out prompts in batches of 1 to 512 rows under every batch
controller, at the costs in a file, by default those modelled for an H200. Controllers are tuned or
trained on the training prompts. Each is charged the time that it takes to observe, decide, allot
and learn on this machine, in NumPy on one core.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
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
MARGIN = 1.02  # over plain decoding in training; costs do not drift here
COSTS = CONF / "batch_cost" / "h200_modelled.json"


def compared(ours: Totals, theirs: Totals) -> list[float]:
    """Throughput divided by another controller's, and the 95% interval over texts."""
    both = (ours.seconds > 0) & (theirs.seconds > 0)
    parts = [values[both] for t in (ours, theirs) for values in (t.tokens, t.seconds)]
    return [ours.throughput / theirs.throughput, *paired_ratio_interval(*parts)]


def figures_of(rows: int, played: Mapping[str, Totals]) -> dict[str, Any]:
    """The figures of all controllers at one load."""
    rivals = {name: t for name, t in played.items() if name not in OWN}
    strongest = max(rivals, key=lambda name: rivals[name].throughput)
    return {
        "rows": rows,
        "best_baseline": strongest,
        "learned_vs_best_baseline": compared(played[LEARNED], played[strongest]),
        "controllers": {
            name: {
                "tokens_per_second": total.throughput,
                "speedup": compared(total, played["plain"]),
                "rounds": total.rounds,
                "drafted": total.drafted,
                "verified": total.verified,
                "thrown_away": total.drafted - total.accepted,
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
        return measure_deciding(learning, costs, lambda rows: make())

    makers = contestants(
        learning,
        costs,
        spec,
        options.tuning_texts,
        console,
        loads=options.loads,
        deciding=taken,
        margin=MARGIN,
    )
    tables = BatchTables(held_out)
    deciding: dict[str, dict[int, dict[str, float]]] = defaultdict(dict)  # by controller and load
    figures: dict[str, float] = {}
    loads = []
    for rows in options.loads:
        order = order_of(held_out, rows, max(options.texts, WAVES * rows), 0)
        played = {}
        for name, make in makers.items():
            takes = measure_deciding(tables, costs, make, [rows])
            played[name] = replay(tables, costs, make(rows), order, rows, takes)
            deciding[name][rows] = {
                "seconds_with_a_look": takes.seconds(rows, True),
                "seconds": takes.seconds(rows, False),
            }
        loads.append(figures_of(rows, played))
        ratio, low, high = loads[-1]["learned_vs_best_baseline"]
        speedups = {
            name: total.throughput / played["plain"].throughput for name, total in played.items()
        }
        console.print(
            f"{rows} rows: learned ÷ {loads[-1]['best_baseline']} {ratio:.3f} ({low:.3f} to "
            f"{high:.3f}); " + ", ".join(f"{name} {value:.3f}" for name, value in speedups.items())
        )
        figures[f"learned_vs_best_baseline_{rows}"] = ratio
        figures[f"learned_vs_plain_{rows}"] = speedups[LEARNED]
    finish(
        figures,
        options.json,
        details={
            "costs": costs.device,
            "deciding": deciding,
            "loads": loads,
        },
    )


if __name__ == "__main__":
    main()
