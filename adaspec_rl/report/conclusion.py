"""The end of a run of comparisons: results, the report and its pictures."""

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from adaspec_rl.comparison.compare import Comparison
from adaspec_rl.comparison.figures import LIVE, SCHEMA, Results
from adaspec_rl.comparison.memory import models_memory
from adaspec_rl.comparison.tables import write_results
from adaspec_rl.config import Config
from adaspec_rl.costs.profile import device_name
from adaspec_rl.pairs.drafter_names import short_names
from adaspec_rl.pairs.pair import Pair
from adaspec_rl.report.contents import Report, ReportedComparison
from adaspec_rl.report.figures import report_figures
from adaspec_rl.report.page import write_report
from adaspec_rl.report.plots import speedup_plot
from adaspec_rl.report.policy_map import policy_map
from adaspec_rl.training.bundle import package_versions


def conclude(config: Config, pair: Pair, found: Sequence[Comparison], folder: Path) -> Results:
    """Write results, report and pictures of all comparisons."""
    results = Results(
        schema=SCHEMA,
        command=_command(),
        device=device_name(pair.target.device),
        versions=package_versions(),
        pair=found[0].figures.conditions.pair,
        weights_mib=models_memory(pair),
        memory=config.model.memory,
        seed=config.seed,
        comparisons=[item.figures for item in found],
        execution=pair.target.execution,
    )
    drafters = short_names([drafter.name for drafter in pair.drafters])
    replayed = results.comparisons[0].conditions.mode != LIVE
    report = Report(
        title=f"{results.pair.name}: who decodes fastest?",
        created=None if replayed else time.strftime("%Y-%m-%d"),
        command=results.command,
        device=results.device,
        execution=results.execution,
        drafters=drafters,
        comparisons=[
            ReportedComparison(
                item.figures,
                item.profile,
                policy_map(item.bundle, drafters) if item.bundle else None,
            )
            for item in found
        ],
        examples=[example for item in found for example in item.shown],
    )
    write_results(results, folder)
    write_report(folder / "report.html", report)
    report_figures(report.comparisons, folder)
    for figures in results.comparisons:
        mode, temperature = figures.conditions.mode, figures.conditions.temperature
        name = "speedup" if len(found) == 1 else f"speedup-{mode}-t{temperature:g}"
        speedup_plot(figures, results.device, folder / f"{name}.png")
    return results


def _command() -> str:
    """The typed command: `python train_policy.py …` or `adaspec-train …`."""
    program = Path(sys.argv[0]).name
    return shlex.join([*(["python"] if program.endswith(".py") else []), program, *sys.argv[1:]])
