"""What a run of comparisons ends with: results, the report and its pictures."""

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adaspec_rl.comparison.compare import LIVE, Comparison
from adaspec_rl.comparison.memory import models_memory
from adaspec_rl.comparison.results import SCHEMA, write_results
from adaspec_rl.config import Config
from adaspec_rl.costs.profile import device_name
from adaspec_rl.pairs.drafter_names import short_names
from adaspec_rl.pairs.pair import Pair
from adaspec_rl.report.figures import report_figures
from adaspec_rl.report.page import write_report
from adaspec_rl.report.plots import speedup_plot
from adaspec_rl.report.policy_map import policy_map
from adaspec_rl.training.bundle import package_versions


def conclude(
    config: Config,
    pair: Pair,
    found: Sequence[Comparison],
    folder: Path,
) -> dict[str, Any]:
    """Write results, report and pictures of all comparisons."""
    first = found[0].figures
    results = {
        "schema": SCHEMA,
        "command": _command(),
        "device": device_name(pair.target.device),
        "versions": package_versions(),
        "pair": first["pair"],
        "weights_mib": models_memory(pair),
        "memory": config.model.memory,
        "seed": config.seed,
        "comparisons": [item.figures for item in found],
    }
    drafters = short_names([drafter.name for drafter in pair.drafters])
    report = {
        **results,
        "comparisons": [_with_policy_and_costs(item, drafters) for item in found],
        "title": f"{first['pair']['name']}: who decodes fastest?",
        "created": time.strftime("%Y-%m-%d") if first["mode"] == LIVE else None,
        "examples": [example for item in found for example in item.shown],
        "drafters": drafters,
    }
    write_results(results, folder)
    write_report(folder / "report.html", report)
    report_figures(report, folder)
    for item in found:
        figures = item.figures
        alone = len(found) == 1
        name = "speedup" if alone else f"speedup-{figures['mode']}-t{figures['temperature']:g}"
        speedup_plot({**figures, "device": results["device"]}, folder / f"{name}.png")
    return results


def _with_policy_and_costs(comparison: Comparison, drafters: Sequence[str]) -> dict[str, Any]:
    """The figures with what the report shows of its own policy and costs."""
    return {
        **comparison.figures,
        "profile": comparison.profile.to_dict() if comparison.profile else None,
        "policy_map": policy_map(comparison.bundle, drafters) if comparison.bundle else None,
    }


def _command() -> str:
    """What was typed: `python train_policy.py …` or `adaspec-train …`."""
    program = Path(sys.argv[0]).name
    return shlex.join([*(["python"] if program.endswith(".py") else []), program, *sys.argv[1:]])
