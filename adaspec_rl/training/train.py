"""Train a policy for a pair: record it, learn from replays, judge it on held-out prompts."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import Env
from rich.console import Console
from stable_baselines3.common.vec_env import VecEnv

from adaspec_rl.config import TrainConfig
from adaspec_rl.console import progress, say
from adaspec_rl.control.action import action_list, branching, most_nodes
from adaspec_rl.control.learned import Actor
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.control.pair_observation import pair_observation
from adaspec_rl.costs.profile import CostProfile, RoundCosts, device_name
from adaspec_rl.costs.randomised import drifting_costs, random_costs
from adaspec_rl.data.encoding import chat_facts
from adaspec_rl.data.prompts import EncodedPrompt
from adaspec_rl.decoding.round import Action
from adaspec_rl.decoding.sampling import SAMPLER
from adaspec_rl.decoding.survival import Survival
from adaspec_rl.decoding.tree_shape import TreeShape
from adaspec_rl.envs.live import make_live_env
from adaspec_rl.envs.stable_baselines import AdaSpecVecEnv
from adaspec_rl.envs.vector import ReplayGame
from adaspec_rl.from_config import (
    measured_profile_from,
    recording_from,
    sampling_from,
    saved_profile_from,
    verification_from,
)
from adaspec_rl.pairs.pair import Pair
from adaspec_rl.prompts import prompts_from
from adaspec_rl.recording.trace import Trace
from adaspec_rl.replay.streams import ReplayTables
from adaspec_rl.replay.tree_shapes import BUDGETS, tree_families
from adaspec_rl.run_identity import (
    RECORD,
    RunIdentity,
    digest,
    saved_identity,
    settings_of,
)
from adaspec_rl.training.bundle import (
    PolicyBundle,
    load_bundle,
    package_versions,
    save_bundle,
)
from adaspec_rl.training.callbacks import TrainingMonitor, Verdict
from adaspec_rl.training.divergence import check_converging
from adaspec_rl.training.hindsight import fit_hindsight
from adaspec_rl.training.judge import Judge, fixed_speedups, split, split_domains
from adaspec_rl.training.loggers import RunLog
from adaspec_rl.training.ppo import (
    SHARPNESS,
    check_start,
    learn_until_the_end,
    load_checkpoint,
    new_ppo,
    warm_start,
)

SCRIPT = "train_policy"
VALIDATION_PROFILES = 8  # of randomised costs


@dataclass(frozen=True, slots=True)
class Task:
    """Everything that a policy is trained on."""

    pair: Pair
    prompts: list[EncodedPrompt]
    trace: Trace
    survival: tuple[Survival, ...]
    profile: CostProfile
    actions: tuple[Action, ...]
    spec: ObservationSpec


@dataclass(slots=True)
class Trained:
    """The best policy of a run."""

    actor: Actor
    verdict: Verdict
    steps: int
    seconds: float = 0.0


def prepare(config: TrainConfig, pair: Pair, console: Console, resume: Path | None = None) -> Task:
    """Record the training prompts and measure decoding costs, or reuse what is saved of both."""
    branches = branching(config.env.actions)
    spec = pair_observation(pair, config.env.features, config.env.max_length, trees=branches)
    if not branches:  # otherwise the actions depend on the recording
        _check_start(config, spec, _actions(config, pair))
    prompts = prompts_from(config, "train", pair, console, config.replay.prompts)
    split_domains([item.prompt.domain for item in prompts], config.agent.validation_share)
    if resume:
        saved: CostProfile | None = CostProfile.load(resume / "cost_profile.json")
    else:
        saved = saved_profile_from(config.cost)
    if saved:  # refused now rather than after the recording
        _check_profile(config, pair, saved)
        if resume:
            identity_of(config, pair, prompts, saved).check_contents(begun(resume), resume)
    trace, survival = recording_from(config, pair, prompts, console, ranks=branches)
    profile = saved or measured_profile_from(config, pair, prompts, survival, spec, console)
    _check_profile(config, pair, profile)
    trees = None
    if branches:
        learned, _ = split(trace, config.agent.validation_share)
        trees = tree_families(learned, profile.at(batch_size=config.cost.batch_size))
    actions = _actions(config, pair, trees)
    _check_start(config, spec, actions)
    return Task(pair, prompts, trace, tuple(survival), profile, actions, spec)


def _actions(
    config: TrainConfig, pair: Pair, trees: Sequence[Sequence[TreeShape]] | None = None
) -> tuple[Action, ...]:
    env = config.env
    return tuple(
        action_list(env.actions, env.max_length, len(pair.drafters), env.thresholds, trees)
    )


def _check_start(config: TrainConfig, spec: ObservationSpec, actions: Sequence[Action]) -> None:
    """Refuse to start from a policy of another shape."""
    if config.agent.warm_start not in (None, "hindsight"):
        start = load_bundle(Path(config.agent.warm_start)).actor
        check_start(start, [len(spec), *config.agent.hidden, len(actions)])


def identity_of(
    config: TrainConfig, pair: Pair, prompts: Sequence[EncodedPrompt], profile: CostProfile
) -> RunIdentity:
    """Everything that a training depends on."""
    contents = {
        "pair": pair.fingerprint,
        "prompts": digest([asdict(item) for item in prompts]),
        "costs": digest(profile.to_dict()),
        "device": device_name(pair.target.device),
        "sampler": SAMPLER,
        "versions": package_versions(),
    }
    return RunIdentity(SCRIPT, settings_of(config), contents)


def begun(run: Path) -> RunIdentity:
    """The saved identity of a run that is to be resumed."""
    found = saved_identity(run)
    if found is None:
        raise ValueError(f"{run} cannot be resumed (it has no {RECORD}): begin a new run")
    return found


def _check_profile(config: TrainConfig, pair: Pair, profile: CostProfile) -> None:
    nodes = max(BUDGETS) if branching(config.env.actions) else 0
    profile.check(len(pair.drafters), config.env.max_length, nodes)
    profile.contexts(config.cost.batch_size)


def cost_profiles(
    config: TrainConfig, task: Task, rng: np.random.Generator, count: int
) -> tuple[list[Sequence[RoundCosts]], list[float]]:
    """Cost profiles, each a list of costs by context, and the policy's seconds under each."""
    points = task.profile.contexts(config.cost.batch_size)
    if config.env.cost == "profile":
        return [points], [task.profile.policy]
    if config.env.cost == "drifting":
        return [drifting_costs(rng, points) for _ in range(count)], [task.profile.policy] * count
    drafters = len(task.pair.drafters)
    nodes = most_nodes(task.actions)
    drawn = [random_costs(rng, drafters, config.env.max_length, nodes) for _ in range(count)]
    return [[costs] for costs, _ in drawn], [policy for _, policy in drawn]


def learn(
    config: TrainConfig,
    task: Task,
    folder: Path,
    console: Console,
    *,
    log: RunLog | None = None,
    checkpoint: Path | None = None,
) -> Trained:
    """Train a policy; the best policy so far is always in `folder / "policy"`."""
    began = time.perf_counter()
    learned, withheld = split(task.trace, config.agent.validation_share)
    rng = np.random.default_rng(config.seed)
    profiles, policy = cost_profiles(config, task, rng, config.env.profiles)
    games = ReplayGame(
        ReplayTables(learned, task.actions),
        task.spec,
        profiles,
        policy=policy,
        streams=config.env.streams,
        reward=config.env.reward,
        seed=config.seed,
    )
    fixed = fixed_speedups(learned, profiles, config.env.max_length)
    games.streams.rates[:] = np.maximum(1.0, fixed)
    trials, trial_policy = cost_profiles(config, task, rng, VALIDATION_PROFILES)
    judge = Judge(ReplayTables(withheld, task.actions), task.spec, trials, trial_policy)
    env = _environment(config, task, games)

    def verdict(actor: Actor) -> Verdict:
        check_converging(actor, config.agent)
        speedups = judge.speedups(actor)
        gain = float(np.mean(speedups / judge.fixed))
        rates = np.maximum(games.streams.rates, fixed * gain)  # Dinkelbach's iteration
        games.streams.rates[:] = rates
        if not isinstance(env, VecEnv):
            env.unwrapped.rate = float(rates[0])  # type: ignore[attr-defined]
        return Verdict(score=gain, speedup=float(speedups.mean()))

    def keep(actor: Actor, found: Verdict, steps: int) -> None:
        training = {
            "steps": steps,
            "speedup": found.speedup,
            "gain_over_best_fixed": found.score,
            "seed": config.seed,
            "temperature": config.env.temperature,
            "verification": config.env.verification,
            "recording": task.trace.fingerprint,
            "chat": asdict(chat_facts(config.data.chat, task.prompts, task.pair.tokenizer)),
            "data": asdict(config.data),
            "agent": asdict(config.agent),
            "costs": config.env.cost,
        }
        save_bundle(new_bundle(actor, task, training), folder / "policy")

    if config.agent.name == "hindsight":
        with console.status("fitting every action's reward"):
            actor = fit_hindsight(games, config.agent, config.seed)
        trained = Trained(actor, verdict(actor), config.agent.total_steps)
        keep(actor, trained.verdict, trained.steps)
    else:
        trained = _run_ppo(config, folder, console, env, games, verdict, keep, log, checkpoint)
    trained.seconds = time.perf_counter() - began
    return trained


def _environment(config: TrainConfig, task: Task, games: ReplayGame) -> Env | VecEnv:
    if config.env.session == "replay":
        return AdaSpecVecEnv(games)
    return make_live_env(
        task.pair,
        task.prompts,
        actions=task.actions,
        features=task.spec.groups,
        max_length=config.env.max_length,
        reward=config.env.reward,
        timing=config.env.timing,
        max_new_tokens=config.env.max_new_tokens,
        sampling=sampling_from(config.env),
        verification=verification_from(config.env),
        survival=task.survival,
        profile=task.profile,
        batch_size=config.cost.batch_size,
        distance_price=config.env.distance_price,
    )


def _run_ppo(
    config: TrainConfig,
    folder: Path,
    console: Console,
    env: Env | VecEnv,
    games: ReplayGame,
    judge: Any,
    keep: Any,
    log: RunLog | None,
    checkpoint: Path | None,
) -> Trained:
    agent = new_ppo(env, config.agent, config.seed)
    start = config.agent.warm_start
    if start == "hindsight":
        warm_start(agent, fit_hindsight(games, _regression(config), config.seed), SHARPNESS)
    elif start:
        warm_start(agent, load_bundle(Path(start)).actor)

    def reseed(seed: int) -> None:
        games.seed(seed)
        if not isinstance(env, VecEnv):
            agent.get_env().seed(seed)  # type: ignore[union-attr]

    def rounds(values: dict[str, Any]) -> np.ndarray:
        if isinstance(env, AdaSpecVecEnv):
            played = env.played
            assert played is not None
            return np.stack([played.emitted, played.drafted, played.steps], axis=1)
        infos = values["infos"]
        return np.array(
            [(len(i["round"].tokens), i["round"].drafted, i["steps"]) for i in infos], dtype=float
        )

    with progress(console, "training") as update:
        monitor = TrainingMonitor(
            total_steps=config.agent.total_steps,
            checkpoints=folder / "checkpoints",
            checkpoint_steps=config.agent.checkpoint_steps,
            seed=config.seed,
            judge=judge,
            reseed=reseed,
            rounds=rounds,
            on_best=keep,
            progress=update,
        )
        if checkpoint:
            monitor.restore(load_checkpoint(agent, checkpoint), agent.num_timesteps)
            say(console, f"resuming from {checkpoint} ({agent.num_timesteps:,} steps)")
        if log:
            agent.set_logger(log.logger)
        learn_until_the_end(agent, config.agent, monitor)
    assert monitor.best is not None
    return Trained(*monitor.best)


def _regression(config: TrainConfig) -> Any:
    """The settings of the regression that PPO may start from, with PPO's network shape."""
    return replace(
        config.agent,
        total_steps=min(400_000, config.agent.total_steps),
        learning_rate=3e-3,
        n_epochs=8,
    )


def new_bundle(actor: Actor, task: Task, training: dict[str, Any]) -> PolicyBundle:
    """A bundle of `actor` with what it was trained on."""
    return PolicyBundle(
        actor=actor,
        actions=task.actions,
        spec=task.spec,
        pair=task.pair.name,
        fingerprint=task.pair.fingerprint,
        profile=task.profile,
        survival=task.survival,
        training=training,
    )
