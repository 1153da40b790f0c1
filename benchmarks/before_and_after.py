"""The figures of benchmarks at two commits: what a change made better or worse.

    git worktree add ../before COMMIT
    python benchmarks/before_and_after.py --before ../before --json FILE \\
        --run "replay.py --prompts 4" --run "policy.py --seeds 2 cost=cpu_2_threads"

Every run is a benchmark with its arguments, which both commits must understand. The two sides, each
with its own package in this Python environment, run at the same time, `--repeats` times; but only
one of them at any moment: every `--slice` seconds, one is paused and the other one goes on, so that
whatever else happens on the machine meets both alike. Figures made of long times are therefore half
of what they would be, on both sides. A figure of a side is its median; `NAME_after_vs_before`
divides those of the figures that both sides write.
"""

import argparse
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from report import finish

AFTER = Path(__file__).parents[1]


def in_slices(checkouts: Mapping[str, Path], run: str, slice_: float) -> dict[str, dict]:
    """Run a benchmark in all checkouts, in turns of `slice_` seconds. Returns their figures."""
    script, *arguments = shlex.split(run)
    with tempfile.TemporaryDirectory() as folder:
        written = {name: Path(folder) / f"{name}.json" for name in checkouts}
        running = {
            name: subprocess.Popen(
                [sys.executable, f"benchmarks/{script}", *arguments, "--json", str(written[name])],
                cwd=checkout,
                env=os.environ | {"PYTHONPATH": str(checkout)},
                start_new_session=True,
                stdout=subprocess.DEVNULL,
            )
            for name, checkout in checkouts.items()
        }
        for process in running.values():
            os.killpg(process.pid, signal.SIGSTOP)
        try:
            while any(process.poll() is None for process in running.values()):
                for process in running.values():
                    if process.poll() is None:
                        os.killpg(process.pid, signal.SIGCONT)
                    time.sleep(slice_)  # also if it has ended, as the others' time is halved
                    if process.poll() is None:
                        os.killpg(process.pid, signal.SIGSTOP)
        finally:
            for process in running.values():
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        failed = [name for name, process in running.items() if process.returncode]
        if failed:
            raise SystemExit(f"{run!r} failed in the checkout {failed[0]}: run it there by itself")
        return {name: json.loads(path.read_text())["figures"] for name, path in written.items()}


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
    parser.add_argument("--slice", type=float, default=0.2, help="seconds")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sides = {"before": options.before.resolve(), "after": AFTER}
    found: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in sides}
    for run in options.run:
        for turn in range(options.repeats):
            print(f"{run}: {turn + 1} of {options.repeats}", flush=True)
            order = sorted(sides, reverse=turn % 2 == 1)
            figures = in_slices({name: sides[name] for name in order}, run, options.slice)
            for name, own in figures.items():
                for figure, value in own.items():
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
