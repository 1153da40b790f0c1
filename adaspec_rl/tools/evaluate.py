"""What `evaluate.py` runs: find the policy, compare it, and write results and report."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from adaspec_rl.comparison.compare import MODES, compare
from adaspec_rl.comparison.contestants import check_comparison
from adaspec_rl.comparison.figures import Results
from adaspec_rl.comparison.serving import MODES as MODES_UNDER_LOAD
from adaspec_rl.comparison.serving import compare_under_load
from adaspec_rl.config import EvaluateConfig
from adaspec_rl.console import say
from adaspec_rl.files import locked, remove_unfinished, write_atomically
from adaspec_rl.from_config import pair_from, set_threads
from adaspec_rl.pairs.pair import Pair
from adaspec_rl.report.conclusion import conclude
from adaspec_rl.report.load_plot import load_plot
from adaspec_rl.report.publish import log_comparison, open_run
from adaspec_rl.run_identity import RECORD, RunIdentity, saved_identity, settings_of
from adaspec_rl.training.bundle import DESCRIPTION, PolicyBundle, load_bundle


def evaluate_policy(
    config: EvaluateConfig, folder: Path, console: Console
) -> Results | dict[str, Any]:
    """`evaluate.py`: returns what `results.json` in `folder` holds.

    It writes `results.json` and `.csv`, `report.html`, pictures, and the generations
    (`generations-*.jsonl`), from which `resume=FOLDER` continues.
    """
    set_threads(config.threads)
    identity = RunIdentity("evaluate", settings_of(config), {})
    if config.resume:
        folder = Path(config.resume)
        if not folder.is_dir():
            raise ValueError(f"there is no folder {folder} to resume: set resume=FOLDER of a run")
        if saved_identity(folder) is None:
            raise ValueError(
                f"{folder} holds no comparison to resume (it has no {RECORD}): set resume to the "
                "folder of an interrupted evaluate.py"
            )
    with locked(folder):
        remove_unfinished(folder)
        began = saved_identity(folder)
        if began:
            identity.check_settings(began, folder)
        else:
            identity.save(folder)
        if config.evaluation.load is not None:
            return _serve(config, folder, console)
        with open_run(config.logger, folder, asdict(config), console, "evaluate") as run:
            results = _evaluate(config, folder, console)
            if run is not None:
                log_comparison(run, folder, results)
    return results


def _evaluate(config: EvaluateConfig, folder: Path, console: Console) -> Results:
    """Compare at every temperature and in every mode, and write the results."""
    pair = pair_from(config.model, config.engine)
    temperatures = config.evaluation.temperatures or [config.env.temperature]
    wanted = [replace(config, env=replace(config.env, temperature=t)) for t in temperatures]
    bundles = [_bundle(own, pair, console) for own in wanted]
    for own, bundle in zip(wanted, bundles):
        check_comparison(own, pair, policy=bundle is not None)
    rivals = {name: _checked(Path(path), config, pair) for name, path in config.rivals.items()}
    found = []
    for own, bundle in zip(wanted, bundles):
        for mode in MODES[config.evaluation.mode]:
            found.append(compare(own, pair, bundle, folder, console, mode=mode, rivals=rivals))
    return conclude(config, pair, found, folder)


def _serve(config: EvaluateConfig, folder: Path, console: Console) -> dict[str, Any]:
    """Requests under load: `serving.json` and a picture."""
    pair = pair_from(config.model, config.engine)
    results = compare_under_load(config, pair, console)
    write_atomically(folder / "serving.json", json.dumps(results, indent=2) + "\n")
    for mode in MODES_UNDER_LOAD[config.evaluation.mode]:
        load_plot(results[mode], results["costs"], folder / f"serving-{mode}.png")
    return results


def _bundle(config: EvaluateConfig, pair: Pair, console: Console) -> PolicyBundle | None:
    """The policy to judge: the given one, else the newest, preferably of this temperature."""
    if config.controllers is None and config.controller.name != "learned" and not config.policy:
        return None
    path = Path(config.policy) if config.policy else None
    if path is None:
        path = newest_bundle(Path(config.runs), config.env.temperature)
    say(console, f"policy: {path}" + ("" if config.policy else " (the newest)"))
    return _checked(path, config, pair)


def _checked(path: Path, config: EvaluateConfig, pair: Pair) -> PolicyBundle:
    """The policy in `path`, which must fit the pair and the rule of verification."""
    bundle = load_bundle(path)
    bundle.check_pair(pair)
    if config.env.temperature > 0:
        bundle.check_verification(config.env.verification)
    return bundle


def newest_bundle(runs: Path, temperature: float | None = None) -> Path:
    """The newest bundle under `runs`, among those trained at `temperature` if there are any."""
    found = sorted(runs.rglob(f"policy/{DESCRIPTION}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ValueError(
            f"no trained policy under {runs}: run train_policy.py first, or set policy=FOLDER"
        )
    for path in reversed(found):
        if temperature is not None:
            try:
                fits = load_bundle(path.parent).training.get("temperature") == temperature
            except ValueError:
                continue  # of an older version; chosen only if there is no other
            if fits:
                return path.parent
    return found[-1].parent
