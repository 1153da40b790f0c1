"""Compare fixed lengths and a policy on held-out prompts; write and print the results."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from adaspec_rl.config import Config, ControllerConfig, EvaluateConfig
from adaspec_rl.control.controller import Controller, FixedLength
from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.evaluation.benchmark import run_benchmark
from adaspec_rl.evaluation.losslessness import compare_texts
from adaspec_rl.evaluation.plots import speedup_plot
from adaspec_rl.evaluation.results import assemble, results_table, write_results
from adaspec_rl.from_config import pair_from, prompts_from, sampling_from, set_threads
from adaspec_rl.pairs.pair import Pair
from adaspec_rl.replay.cost_profile import device_name
from adaspec_rl.training.bundle import DESCRIPTION, PolicyBundle, load_bundle, package_versions


def evaluate_policy(config: EvaluateConfig, folder: Path, console: Console) -> dict[str, Any]:
    """`evaluate.py`: returns what `results.json` in `folder` holds."""
    set_threads(config.threads)
    bundle = None
    if config.controller.name == "learned":
        path = Path(config.policy) if config.policy else newest_bundle(Path(config.runs))
        console.print(f"policy: {path}" + ("" if config.policy else " (the newest)"))
        bundle = load_bundle(path)
    pair = pair_from(config.model, config.engine)
    if bundle:
        bundle.check_pair(pair.name, pair.fingerprint)
    return compare(config, pair, bundle, folder, console)


def newest_bundle(runs: Path) -> Path:
    """The bundle written last under `runs`."""
    found = sorted(runs.rglob(f"policy/{DESCRIPTION}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ValueError(
            f"no trained policy under {runs}: run train_policy.py first, or set policy=FOLDER"
        )
    return found[-1].parent


def compare(
    config: Config, pair: Pair, bundle: PolicyBundle | None, folder: Path, console: Console
) -> dict[str, Any]:
    """Run every method on the held-out prompts, interleaved; write results and print the table."""
    sampling = sampling_from(config.env)
    session = pair.session(
        max_new_tokens=config.evaluation.max_new_tokens,
        sampling=sampling,
        verification=config.env.verification,
        survival=bundle.survival if bundle else None,
    )
    prompts = prompts_from(config.data, "test", pair, config.evaluation.prompts)
    # Without a policy nobody looks at the cost features.
    batch_size = config.cost.batch_size
    cost = bundle.costs(batch_size) if bundle else CostFeatures(0.0, 0.0, 0.0)
    controllers = methods(config.evaluation.lengths, config.controller, bundle)
    with Progress(console=console) as progress:
        task = progress.add_task("evaluation", total=len(prompts))
        records = run_benchmark(
            session,
            controllers,
            prompts,
            cost=cost,
            seed=config.seed,
            warmup=config.evaluation.warmup,
            progress=lambda done, total: progress.update(task, completed=done),
        )
    deterministic = sampling.temperature == 0 or config.env.verification == "coupled"
    ids = {item.prompt.id: item.ids for item in prompts}
    results = assemble(
        records,
        lossless=compare_texts(records, ids, pair.target) if deterministic else None,
        context={
            "pair": {"name": pair.name, "fingerprint": pair.fingerprint},
            "device": device_name(pair.target.device),
            "versions": package_versions(),
            "seed": config.seed,
            "temperature": sampling.temperature,
            "verification": "greedy" if sampling.temperature == 0 else config.env.verification,
            "prompts": len(prompts),
            "max_new_tokens": config.evaluation.max_new_tokens,
        },
        resamples=config.evaluation.resamples,
        seed=config.seed,
    )
    write_results(results, folder)
    speedup_plot(results, folder / "speedup.png")
    console.print(results_table(results))
    console.print(_footnote(results), highlight=False)
    return results


def methods(
    lengths: Sequence[int], controller: ControllerConfig, bundle: PolicyBundle | None
) -> list[Controller]:
    """Autoregressive decoding, each fixed length, and the configured controller."""
    chosen: dict[str, Controller] = {}
    extra: list[Controller] = [bundle.controller()] if bundle else []
    if controller.name == "fixed":
        extra = [FixedLength(controller.length)]
    elif controller.name != "learned":
        raise ValueError(f"unknown controller {controller.name!r}: expected learned or fixed")
    for item in (FixedLength(0), *(FixedLength(length) for length in lengths), *extra):
        chosen.setdefault(item.name, item)
    return list(chosen.values())


def _footnote(results: dict[str, Any]) -> str:
    repetition = ", ".join(
        f"{domain} {values['repetition']:.0%}" for domain, values in results["domains"].items()
    )
    lines = [f"Repeated 8-grams in the output: {repetition}."]
    lossless = results["lossless"]
    if lossless:
        same = f"{lossless['identical']} of {lossless['compared']}"
        lines.append(
            f"Texts identical to autoregressive decoding: {same} ({lossless['ties']} ties)."
        )
    else:
        lines.append("Sampled by rejection: the distribution is the target's, texts differ.")
    return "\n".join(lines)
