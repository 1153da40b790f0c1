"""What learning is worth: `python benchmarks/policy.py --seeds 5 --json FILE`.

Records the embedded pair's training and held-out prompts, measures decoding costs here, and trains
with several seeds. Replays every policy on the held-out prompts beside the best fixed drafter and
length in hindsight, each domain's own best, the full-information baseline, and the oracle. With
`--live`, the first seed's policy and the best fixed length also decode live.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from report import finish
from rich.console import Console

from adaspec_rl import config as schema
from adaspec_rl.command import expand
from adaspec_rl.comparison.benchmark import run_benchmark
from adaspec_rl.comparison.identity import AUTOREGRESSIVE
from adaspec_rl.config import CONF, TrainConfig
from adaspec_rl.control.baselines.fixed import FixedLength
from adaspec_rl.control.learned import Actor, LearnedPolicy
from adaspec_rl.costs.profile import CostProfile, RoundCosts
from adaspec_rl.data.prompts import EncodedPrompt
from adaspec_rl.decoding.round import Action
from adaspec_rl.from_config import (
    pair_from,
    recording_from,
    sampling_from,
    set_threads,
)
from adaspec_rl.prompts import prompts_from
from adaspec_rl.recording.trace import Trace
from adaspec_rl.replay.oracle import fixed_steps, lengths_of, oracle
from adaspec_rl.replay.streams import ReplayStreams, ReplayTables, play_all
from adaspec_rl.training.judge import deciding
from adaspec_rl.training.train import Task, learn, prepare

LOOKUP_STEP = 0.004
DRAFT_STEPS = (0.03, 0.06, 0.12, 0.25)  # of an autoregressive step


def configured(overrides: Sequence[str]) -> TrainConfig:
    """`train_policy.py`'s configuration."""
    found = composed("train_policy", overrides)
    assert isinstance(found, TrainConfig)
    return found


def composed(script: str, overrides: Sequence[str]) -> Any:
    """The configuration of `train_policy` or `evaluate`."""
    schema.register()
    expanded = [part for override in overrides for part in expand(override)]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(script, overrides=[f"runs={RUNS}", *expanded])
    return OmegaConf.to_object(config)


RUNS = "runs"


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The held-out texts, and the bounds in hindsight on them."""

    trace: Trace
    profile: CostProfile
    fixed: np.ndarray  # [A, N] steps of each fixed length
    tokens: np.ndarray  # [N]
    domains: np.ndarray  # [N]
    oracle: float

    @classmethod
    def of(cls, trace: Trace, profile: CostProfile) -> "HeldOut":
        """`trace` under `profile`."""
        return cls(
            trace,
            profile,
            fixed_steps(trace, lengths_of(trace), profile),
            np.diff(trace.starts),
            np.array(trace.domains),
            oracle(trace, profile).speedup,
        )

    @property
    def best_fixed(self) -> float:
        """Speedup of the best single drafter and length."""
        return float(self.tokens.sum() / self.fixed.sum(axis=1).min())

    @property
    def best_action(self) -> Action:
        """The best single drafter and length."""
        return lengths_of(self.trace)[int(self.fixed.sum(axis=1).argmin())]

    @property
    def domain_fixed(self) -> float:
        """Speedup when every domain has its own best drafter and length."""
        steps = [
            self.fixed[:, self.domains == name].sum(axis=1).min() for name in set(self.domains)
        ]
        return float(self.tokens.sum() / sum(steps))

    def speedup(self, actor: Actor, task: Task) -> float:
        """Replayed speedup of a policy."""
        tables = ReplayTables(self.trace, task.actions)
        streams = ReplayStreams.of(tables, task.spec, self.profile, streams=len(self.tokens))
        return play_all(streams, deciding(actor)).speedup


@dataclass(frozen=True, slots=True)
class Place:
    """A pair on this machine, with its training task and its held-out texts."""

    config: TrainConfig
    task: Task
    prompts: list[EncodedPrompt]  # held out
    held: HeldOut

    @classmethod
    def of(cls, overrides: Sequence[str], prompts: int | None, console: Console) -> "Place":
        """Record the pair or load its recordings, with `prompts` held-out ones per domain."""
        config = configured(overrides)
        pair = pair_from(config.model, config.engine)
        task = prepare(config, pair, console)
        wanted = prompts_from(config, "test", pair, console, prompts)
        ranks = any(action.branches for action in task.actions)
        trace, _ = recording_from(config, pair, wanted, console, heads=task.survival, ranks=ranks)
        return cls(config, task, wanted, HeldOut.of(trace, task.profile))


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, and the half width of a 95% interval over seeds (Student's t)."""
    quantile = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}.get(len(values), 2.0)
    if len(values) < 2:
        return (float(np.mean(values)),) * 3
    half = quantile * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return float(np.mean(values)), float(np.mean(values)) - half, float(np.mean(values)) + half


def temperature_figures(
    options: argparse.Namespace, temperature: float, console: Console
) -> tuple[dict[str, float], dict[str, Any]]:
    """All figures of one temperature."""
    overrides = [f"env.temperature={temperature}", *options.overrides]
    place = Place.of(overrides, options.prompts, console)
    config, task, prompts, held = place.config, place.task, place.prompts, place.held
    console.print(
        f"temperature {temperature:g}: best fixed ({held.best_action}) {held.best_fixed:.3f}, "
        f"by domain {held.domain_fixed:.3f}, oracle {held.oracle:.3f}"
    )
    learned, hindsight, seconds, actors = [], [], [], []
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            made = learn(replace(config, seed=seed), task, Path(folder), console)
            seconds.append(time.perf_counter() - began)
            actors.append(made.actor)
            learned.append(held.speedup(made.actor, task))
            regression = configured([*overrides, "agent=hindsight", f"seed={seed}"])
            known = learn(regression, task, Path(folder), console)
            hindsight.append(held.speedup(known.actor, task))
        console.print(
            f"seed {seed}: validated {made.verdict.speedup:.3f}, held out {learned[-1]:.3f}, "
            f"hindsight {hindsight[-1]:.3f}, {seconds[-1]:.0f} s"
        )
    t = f"t{temperature:g}"
    gap = held.oracle - held.best_fixed
    samples = {
        f"learned_vs_best_fixed_{t}": [value / held.best_fixed for value in learned],
        f"learned_vs_domain_fixed_{t}": [value / held.domain_fixed for value in learned],
        f"gap_closed_{t}": [(value - held.best_fixed) / gap for value in learned],
        f"learned_vs_hindsight_{t}": [a / b for a, b in zip(learned, hindsight)],
        f"training_seconds_{t}": seconds,
    }
    figures, details = {}, {}
    for name, values in samples.items():
        mean, low, high = interval(values)
        figures[name] = mean
        details[name] = {"mean": mean, "ci95": [low, high], "seeds": values}
    details[f"replayed_{t}"] = {
        "best_fixed": held.best_fixed,
        "best_action": str(held.best_action),
        "drafters": [table.name for table in held.trace.drafters],
        "domain_fixed": held.domain_fixed,
        "oracle": held.oracle,
        "learned": learned,
        "hindsight": hindsight,
        "cost_profile": task.profile.to_dict(),
    }
    if options.live:
        delivered = live_ratio(config, task, prompts, held, actors[0], options, console)
        predicted = learned[0] / held.best_fixed
        figures[f"live_vs_best_fixed_{t}"] = delivered
        figures[f"live_minus_replayed_{t}"] = delivered - predicted
    if options.conditioned and temperature == 0:
        found = conditioned_figures(config, overrides, task, held, console)
        figures |= found
    return figures, details


def live_ratio(
    config: TrainConfig,
    task: Task,
    prompts: Sequence[EncodedPrompt],
    held: HeldOut,
    actor: Actor,
    options: argparse.Namespace,
    console: Console,
) -> float:
    """The policy's live throughput divided by the best fixed setting's."""
    session = task.pair.session(
        max_new_tokens=config.env.max_new_tokens,
        sampling=sampling_from(config.env),
        verification=config.env.verification,
        survival=task.survival,
    )
    policy = LearnedPolicy(actor, task.actions, task.spec)
    best = held.best_action
    near = [best.length + more for more in (-1, 0, 1) if best.length + more > 0]
    fixed = [FixedLength(length, best.drafter) for length in near]
    controllers = [FixedLength(0), *fixed, policy]
    records = run_benchmark(
        session, controllers, prompts, cost=task.profile.at().features(), seed=config.seed
    )
    sums: dict[str, list[float]] = {}
    for record in records:
        total = sums.setdefault(record.method, [0.0, 0.0])
        total[0] += len(record.generation.tokens)
        total[1] += record.generation.seconds
    rates = {method: tokens / seconds for method, (tokens, seconds) in sums.items()}
    for method, rate in rates.items():
        console.print(f"live {method}: {rate / rates[AUTOREGRESSIVE]:.3f}")
    return rates[policy.name] / max(rates[controller.name] for controller in fixed)


def conditioned_figures(
    config: TrainConfig, overrides: Sequence[str], task: Task, held: HeldOut, console: Console
) -> dict[str, float]:
    """One policy for all machines, compared with one policy for each of four machines."""
    randomised = configured([*overrides, "env.cost=randomised"])
    with tempfile.TemporaryDirectory() as folder:
        general = learn(randomised, task, Path(folder), console).actor
        figures = {}
        for step in DRAFT_STEPS:
            profile = machine(step, config.env.max_length, len(task.pair.drafters))
            own = replace(task, profile=profile)
            special = learn(config, own, Path(folder), console).actor
            there = HeldOut.of(held.trace, profile)
            ratio = there.speedup(general, own) / there.speedup(special, own)
            console.print(
                f"draft step {step}: conditioned ÷ specialised {ratio:.4f} "
                f"(best fixed {there.best_fixed:.3f}, conditioned "
                f"{there.speedup(general, own):.3f}, oracle {there.oracle:.3f})"
            )
            figures[f"conditioned_vs_specialised_{step:g}"] = ratio
    figures["conditioned_vs_specialised_min"] = min(figures.values())
    return figures


def machine(draft_step: float, max_length: int, drafters: int) -> CostProfile:
    """A machine whose draft model costs `draft_step` plain steps a token, and lookups almost none.

    The first drafter counts as a model, all others as lookups.
    """
    steps = (draft_step, *(LOOKUP_STEP,) * (drafters - 1))
    costs = RoundCosts(
        context=128,
        batch_size=1,
        autoregressive_step=1.0,
        draft_step=steps,
        stopping_step=tuple(0.1 * step for step in steps),
        verification=tuple(1.0 + 0.02 * k for k in range(max_length + 1)),
        overhead=(0.05,) * drafters,
        catch_up=(0.0,) * drafters,
    )
    return CostProfile(f"draft step {draft_step}", 0.01, (costs,))


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.8])
    parser.add_argument("--prompts", type=int, help="held out, a domain; all by default")
    parser.add_argument("--live", action="store_true", help="also decode with the first policy")
    parser.add_argument("--conditioned", action="store_true", help="also cost-conditioned policies")
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", help="as for train_policy.py")
    options = parser.parse_intermixed_args(arguments)
    set_threads(None)
    console = Console()
    figures: dict[str, float] = {}
    details: dict[str, Any] = {}
    for temperature in options.temperatures:
        found, more = temperature_figures(options, temperature, console)
        figures |= found
        details |= more
    finish(figures, options.json, details={"details": details})


if __name__ == "__main__":
    main()
