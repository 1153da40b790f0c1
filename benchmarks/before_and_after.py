"""The figures of benchmarks at two commits: what a change made better or worse.

    git worktree add ../before COMMIT
    python benchmarks/before_and_after.py --before ../before --json FILE \\
        --run "replay.py --prompts 4" --run "policy.py --seeds 2 cost=cpu_2_threads"

Every run is a benchmark with its arguments, which both commits must understand. The two sides take
turns `--repeats` times, each with its own package in this Python environment. A figure of a side is
its median; `NAME_after_vs_before` divides those of the figures that both sides write.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from report import finish

AFTER = Path(__file__).parents[1]


def figures_of(checkout: Path, run: str) -> dict[str, float]:
    """Run a benchmark in a checkout and read its figures."""
    script, *arguments = shlex.split(run)
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "figures.json"
        subprocess.run(
            [sys.executable, f"benchmarks/{script}", *arguments, "--json", str(written)],
            cwd=checkout,
            env=os.environ | {"PYTHONPATH": str(checkout)},
            check=True,
        )
        figures: dict[str, float] = json.loads(written.read_text())["figures"]
    return figures


def commit_of(checkout: Path) -> str:
    """The checkout's commit."""
    asked = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, required=True, help="the earlier commit's checkout")
    parser.add_argument("--run", action="append", required=True, help="a benchmark, its arguments")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sides = {"before": options.before.resolve(), "after": AFTER}
    found: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in sides}
    for run in options.run:
        for turn in range(options.repeats):
            for name in sorted(sides, reverse=turn % 2 == 1):
                for figure, value in figures_of(sides[name], run).items():
                    found[name][figure].append(value)
    medians = {
        name: {figure: statistics.median(values) for figure, values in figures.items()}
        for name, figures in found.items()
    }
    before, after = medians["before"], medians["after"]
    finish(
        {f"{n}_after_vs_before": after[n] / before[n] for n in after if before.get(n)},
        options.json,
        details={"commits": {name: commit_of(path) for name, path in sides.items()}, **found},
    )


if __name__ == "__main__":
    main()
