"""Train a policy for a pair: profile its costs, run PPO, judge it on held-out prompts."""

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from adaspec_rl.config import TrainConfig
from adaspec_rl.control.learned import Actor, LearnedPolicy
from adaspec_rl.envs.live import make_live_env
from adaspec_rl.envs.spec_decode import SpecDecodeEnv
from adaspec_rl.evaluation.evaluate import compare
from adaspec_rl.from_config import pair_from, prompts_from, sampling_from, set_threads
from adaspec_rl.pairs.pair import Pair
from adaspec_rl.replay.cost_profile import CostProfile
from adaspec_rl.training.bundle import PolicyBundle, load_bundle, save_bundle
from adaspec_rl.training.callbacks import TrainingMonitor
from adaspec_rl.training.loggers import RunLog, open_log
from adaspec_rl.training.ppo import (
    actor_of,
    check_agent,
    latest_checkpoint,
    load_checkpoint,
    new_ppo,
)
from adaspec_rl.training.validation import profiled_speedup


def train_policy(config: TrainConfig, folder: Path, console: Console) -> float:
    """`train_policy.py`: returns the training speedup, which sweeps may maximise.

    Writes to `folder`: `policy/` (the bundle), `cost_profile.json`, `checkpoints/`, `summary.json`,
    `results.json`, `results.csv` and the logger's files. Ctrl-C keeps the best bundle so far.
    """
    set_threads(config.threads)
    if config.env.session != "live":
        raise ValueError(f"unknown env.session {config.env.session!r}: expected live")
    sampling_from(config.env)
    check_agent(config.agent)
    checkpoint = latest_checkpoint(Path(config.resume)) if config.resume else None
    pair = pair_from(config.model, config.engine)
    env = live_env(config, pair, folder, console)
    agent = new_ppo(env, config.agent, config.seed)
    bundle_folder = folder / "policy"
    best: dict[str, Any] = {}

    def keep(actor: Actor, speedup: float, steps: int) -> None:
        best.update(speedup=speedup, steps=steps)
        training = {
            "steps": steps,
            "speedup": speedup,
            "seed": config.seed,
            "temperature": config.env.temperature,
            "verification": config.env.verification,
            "agent": asdict(config.agent),
        }
        save_bundle(new_bundle(actor, env, pair, training), bundle_folder)

    validation = prompts_from(config.data, "train", pair, config.agent.validation_prompts)

    def validate(actor: Actor) -> float:
        policy = LearnedPolicy(actor, env.actions, env.features)
        ids = [item.ids for item in validation]
        return profiled_speedup(env.session, policy, ids, env.profile)

    monitor = TrainingMonitor(
        env.reward,
        config.agent.total_steps,
        folder / "checkpoints",
        config.agent.checkpoint_steps,
        validate,
        keep,
        console,
    )
    if checkpoint:
        monitor.restore(load_checkpoint(agent, checkpoint))
        console.print(f"resuming from {checkpoint} ({agent.num_timesteps:,} steps)")
    with open_log(config.logger, folder, asdict(config)) as log:
        agent.set_logger(log.logger)
        began = time.perf_counter()
        try:
            agent.learn(
                config.agent.total_steps - agent.num_timesteps,
                callback=monitor,
                reset_num_timesteps=False,
            )
        except KeyboardInterrupt:
            where = bundle_folder if bundle_folder.exists() else "none yet: nothing to keep"
            console.print(f"\ninterrupted; the best policy so far: {where}")
            raise
        finally:
            monitor.stop_display()
        seconds = time.perf_counter() - began
        if not best:  # resumed, and never better than before
            keep(actor_of(agent), monitor.best, agent.num_timesteps)
        return _judge(config, pair, folder, bundle_folder, best, seconds, log, console)


def live_env(config: TrainConfig, pair: Pair, folder: Path, console: Console) -> SpecDecodeEnv:
    """The live environment on the training prompts, with a freshly measured cost profile."""
    settings = config.env
    prompts = prompts_from(config.data, "train", pair)
    with Progress(console=console) as progress:
        task = progress.add_task("cost profile", total=1.0)
        env = make_live_env(
            pair,
            prompts,
            actions=settings.actions,
            max_length=settings.max_length,
            features=settings.features,
            reward=settings.reward,
            timing=settings.timing,
            max_new_tokens=settings.max_new_tokens,
            sampling=sampling_from(settings),
            verification=settings.verification,
            profile_samples=settings.profile_samples,
            progress=lambda share: progress.update(task, completed=share),
        )
    env.profile.save(folder / "cost_profile.json")
    console.print(describe(env.profile), highlight=False)
    return env


def describe(profile: CostProfile) -> str:
    """The profile in one line."""
    unit = profile.autoregressive_step
    drafts = ", ".join(f"{step / unit:.3f}" for step in profile.draft_step)
    return (
        f"one autoregressive step {unit * 1e3:.2f} ms; in units of it: draft step {drafts}, "
        f"verification of {profile.max_length + 1} tokens {profile.verification[-1] / unit:.2f}, "
        f"round overhead {profile.overhead / unit:.3f}"
    )


def new_bundle(
    actor: Actor, env: SpecDecodeEnv, pair: Pair, training: dict[str, Any]
) -> PolicyBundle:
    """A bundle of `actor` for the pair and environment that it was trained in."""
    return PolicyBundle(
        actor=actor,
        actions=env.actions,
        spec=env.features,
        pair=pair.name,
        fingerprint=pair.fingerprint,
        profile=env.profile,
        training=training,
    )


def _judge(
    config: TrainConfig,
    pair: Pair,
    folder: Path,
    bundle_folder: Path,
    best: dict[str, Any],
    seconds: float,
    log: RunLog,
    console: Console,
) -> float:
    bundle = load_bundle(bundle_folder)
    learned = replace(config.controller, name="learned")
    results = compare(replace(config, controller=learned), pair, bundle, folder, console)
    chosen = results["methods"]
    summary = {
        "training_speedup": best["speedup"],
        "training_steps": best["steps"],
        "training_seconds": seconds,
        "speedup": chosen["learned"]["speedup"],
        "speedup_ci95": chosen["learned"]["speedup_ci95"],
        "best_fixed": results["best_fixed"],
        "best_fixed_speedup": chosen[results["best_fixed"]]["speedup"],
        "policy": str(bundle_folder),
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    log.finish(summary, bundle_folder)
    console.print(f"policy: {bundle_folder}", highlight=False, soft_wrap=True)
    return float(best["speedup"])
