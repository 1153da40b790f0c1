"""What `train_policy.py` runs: train a policy, then compare it on held-out prompts."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from adaspec_rl.comparison.compare import compare, generations_file
from adaspec_rl.comparison.contestants import check_comparison
from adaspec_rl.comparison.identity import LEARNED
from adaspec_rl.config import TrainConfig
from adaspec_rl.console import say
from adaspec_rl.costs.table import cost_table
from adaspec_rl.files import locked, remove_unfinished, write_atomically
from adaspec_rl.from_config import pair_from, set_threads
from adaspec_rl.report.conclusion import conclude
from adaspec_rl.report.plots import cost_plot
from adaspec_rl.report.publish import log_comparison, open_run
from adaspec_rl.run_identity import RunIdentity, saved_identity, settings_of
from adaspec_rl.training.bundle import load_bundle
from adaspec_rl.training.loggers import RunLog, open_log
from adaspec_rl.training.ppo import latest_checkpoint
from adaspec_rl.training.train import (
    SCRIPT,
    Task,
    Trained,
    begun,
    identity_of,
    learn,
    prepare,
)


def train_policy(config: TrainConfig, folder: Path, console: Console) -> float:
    """`train_policy.py`: returns the speedup on withheld training texts, which sweeps maximise.

    Writes to `folder`: `policy/` (the bundle), `cost_profile.json` and `.png`, `checkpoints/`,
    `summary.json`, `results.json`, `results.csv` and the logger's files. Ctrl-C keeps the best
    bundle so far.
    """
    set_threads(config.threads)
    resume = Path(config.resume) if config.resume else None
    checkpoint = latest_checkpoint(resume) if resume else None
    if resume:
        RunIdentity(SCRIPT, settings_of(config), {}).check_settings(begun(resume), resume)
    with locked(folder):
        remove_unfinished(folder)
        if saved_identity(folder):
            if not (resume and resume.samefile(folder)):
                raise ValueError(
                    f"{folder} holds a run already: choose another folder, or go on with that run "
                    f"by resume={folder}"
                )
            for path in folder.glob(generations_file("*", "*")):  # perhaps of another policy
                path.unlink()
        with open_run(config.logger, folder, asdict(config), console, "train") as run:
            return _train(config, folder, console, resume, checkpoint, run)


def _train(
    config: TrainConfig,
    folder: Path,
    console: Console,
    resume: Path | None,
    checkpoint: Path | None,
    run: Any | None,
) -> float:
    """Train and compare, with the folder locked and W&B's `run`, if any, open."""
    pair = pair_from(config.model, config.engine)
    check_comparison(_judged(config), pair)  # refuse now rather than after the training
    task = prepare(config, pair, console, resume)
    task.profile.save(folder / "cost_profile.json")
    identity_of(config, pair, task.prompts, task.profile).save(folder)
    cost_plot(task.profile, folder / "cost_profile.png")
    console.print(cost_table(task.profile))
    with open_log(config.logger, folder, run) as log:
        try:
            trained = learn(config, task, folder, console, log=log, checkpoint=checkpoint)
        except KeyboardInterrupt:
            bundle = folder / "policy"
            where = bundle if bundle.exists() else "none yet: nothing to keep"
            say(console, f"\ninterrupted; the best policy so far: {where}")
            raise
        return _report(config, task, folder, trained, log, run, console)


def _judged(config: TrainConfig) -> TrainConfig:
    """The settings of the final comparison of the policy with fixed lengths."""
    learned = replace(config.controller, name="learned")
    return replace(config, controllers=None, controller=learned)


def _report(
    config: TrainConfig,
    task: Task,
    folder: Path,
    trained: Trained,
    log: RunLog,
    run: Any | None,
    console: Console,
) -> float:
    bundle = load_bundle(folder / "policy")
    judged = _judged(config)
    comparison = compare(judged, task.pair, bundle, folder, console)
    results = conclude(judged, task.pair, [comparison], folder)
    overall = comparison.figures.overall
    learned, best = overall.methods[LEARNED], overall.methods[overall.best_fixed]
    summary = {
        "training_speedup": trained.verdict.speedup,
        "training_gain_over_best_fixed": trained.verdict.score,
        "training_steps": trained.steps,
        "training_seconds": trained.seconds,
        "speedup": learned.speedup,
        "speedup_ci95": learned.speedup_ci95,
        "best_fixed": overall.best_fixed,
        "best_fixed_speedup": best.speedup,
        "policy": str(folder / "policy"),
    }
    write_atomically(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    log.finish(summary, folder / "policy")
    if run is not None:
        log_comparison(run, folder, results)
    say(console, f"policy: {folder / 'policy'}")
    return trained.verdict.speedup
