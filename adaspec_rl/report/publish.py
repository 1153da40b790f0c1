"""A comparison's tables and pictures on Weights & Biases."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from adaspec_rl.comparison.figures import Results
from adaspec_rl.comparison.tables import rows
from adaspec_rl.config import LoggerConfig
from adaspec_rl.console import say

ANSWER_SECONDS = 10  # in which W&B has to begin a run


@contextmanager
def open_run(
    config: LoggerConfig,
    folder: Path,
    run_config: Mapping[str, Any],
    console: Console,
    job_type: str,
) -> Iterator[Any | None]:
    """With `logger=wandb`, a W&B run that is open while the block runs; None with other loggers.

    `WANDB_MODE` is respected: `offline` keeps W&B's files in `folder`, `disabled` writes none. If a
    run cannot begin online because a key or a network is missing, it is offline, with a message.

    Raises:
        ValueError: W&B refuses the settings.
    """
    if config.name != "wandb":
        yield None
        return
    import wandb

    begin = partial(
        wandb.init,
        project=config.project,
        entity=config.entity,
        group=config.group,
        job_type=job_type,
        dir=str(folder),
        config=dict(run_config),
        reinit="create_new",
        settings=wandb.Settings(init_timeout=ANSWER_SECONDS),
    )
    try:
        run = begin()
    except wandb.errors.Error as error:
        try:
            run = begin(mode="offline")
        except wandb.errors.Error as mistake:  # of the settings, not of the network
            raise ValueError(f"W&B refuses the run: {mistake}; see logger.*") from None
        reason = str(error).split("\n")[0].rstrip(".")
        say(
            console,
            f"W&B: this run is kept offline ({reason}); send it later with "
            f"wandb sync {Path(run.dir).parent}",
        )
    with run:
        yield run


def log_comparison(run: Any, folder: Path, results: Results) -> None:
    """Log every table and picture and the report of `folder` to an open run."""
    import wandb

    table = rows(results)
    columns: list[str | int] = list(table[0])
    values = [list(row.values()) for row in table]
    logged: dict[str, Any] = {"comparison": wandb.Table(columns=columns, data=values)}
    for picture in sorted(folder.glob("*.png")):
        logged[picture.stem] = wandb.Image(str(picture))
    report = folder / "report.html"
    if report.exists():
        logged["report"] = wandb.Html(report.read_text(encoding="utf-8"), inject=False)
    run.log(logged)
    for comparison in results.comparisons:
        conditions = comparison.conditions
        scope = f"{conditions.mode}/t{conditions.temperature:g}"
        for method, figures in comparison.overall.methods.items():
            run.summary[f"{scope}/{method}/speedup"] = figures.speedup
            run.summary[f"{scope}/{method}/versus_best_fixed"] = figures.versus_best_fixed
