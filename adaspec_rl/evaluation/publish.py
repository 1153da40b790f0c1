"""A comparison's tables and pictures on Weights & Biases."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaspec_rl.config import LoggerConfig
from adaspec_rl.evaluation.results import rows


def publish(
    config: LoggerConfig, folder: Path, results: Mapping[str, Any], run_config: Mapping[str, Any]
) -> None:
    """With `logger=wandb`, a run of its own; other loggers' files are in `folder` already."""
    if config.name != "wandb":
        return
    import wandb

    run = wandb.init(
        project=config.project,
        entity=config.entity,
        group=config.group,
        job_type="evaluate",
        dir=str(folder),
        config=dict(run_config),
    )
    try:
        log_comparison(run, folder, results)
    finally:
        run.finish()


def log_comparison(run: Any, folder: Path, results: Mapping[str, Any]) -> None:
    """Every table, picture and the report of `folder`, in an open run."""
    import wandb

    table = rows(results)
    columns: list[str | int] = list(dict.fromkeys(name for row in table for name in row))
    values = [[row.get(str(name)) for name in columns] for row in table]
    logged: dict[str, Any] = {"comparison": wandb.Table(columns=columns, data=values)}
    for picture in sorted(folder.glob("*.png")):
        logged[picture.stem] = wandb.Image(str(picture))
    report = folder / "report.html"
    if report.exists():
        logged["report"] = wandb.Html(report.read_text(encoding="utf-8"), inject=False)
    run.log(logged)
    for comparison in results["comparisons"]:
        scope = f"{comparison['mode']}/t{comparison['temperature']:g}"
        for method, figures in comparison["methods"].items():
            run.summary[f"{scope}/{method}/speedup"] = figures["speedup"]
            run.summary[f"{scope}/{method}/versus_best_fixed"] = figures["versus_best_fixed"]
