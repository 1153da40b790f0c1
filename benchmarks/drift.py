"""When the text or the drafter changes: `python benchmarks/drift.py --json FILE`.

Replays one stream of held-out prompts whose kind of text changes every few prompts. With `--stale`,
the first drafter is always wrong in the second half, though its own confidence stays the same.
Compares controllers that learn as they go, a trained policy with and without its guard, the best
fixed drafter and length in hindsight, and the oracle.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from policy import HeldOut, Place
from report import finish
from rich.console import Console

from adaspec_rl.comparison.benchmark import ProfileTime, run_benchmark
from adaspec_rl.comparison.statistics import paired_ratio, paired_ratio_interval
from adaspec_rl.control.baselines.exp3 import Exp3
from adaspec_rl.control.baselines.fixed import FixedLength
from adaspec_rl.control.baselines.thompson import Thompson
from adaspec_rl.control.baselines.ucb1 import Ucb1
from adaspec_rl.control.controller import Controller
from adaspec_rl.control.guard import Guarded
from adaspec_rl.control.learned import LearnedPolicy
from adaspec_rl.data.prompts import EncodedPrompt
from adaspec_rl.decoding.round import FALLBACK, Action
from adaspec_rl.from_config import set_threads
from adaspec_rl.recording.trace import Trace
from adaspec_rl.replay.session import ReplaySession
from adaspec_rl.training.train import learn

ARMS = (1, 2, 4, 8)  # the bandits' draft lengths, for every drafter


def arranged(prompts: Sequence[EncodedPrompt], run: int) -> list[int]:
    """Numbers of the prompts: `run` of one kind of text, then `run` of the next, and so on."""
    kinds = dict.fromkeys(item.prompt.domain for item in prompts)
    waiting = {
        kind: [n for n, item in enumerate(prompts) if item.prompt.domain == kind] for kind in kinds
    }
    order: list[int] = []
    while any(waiting.values()):
        for kind in kinds:
            order += waiting[kind][:run]
            waiting[kind] = waiting[kind][run:]
    return order


def stale(trace: Trace, first: int) -> Trace:
    """The trace with the first drafter always wrong from text `first` on."""
    table = trace.drafters[0]
    tokens, accepted = table.tokens.copy(), table.accepted.copy()
    start = int(trace.starts[first])
    own = np.concatenate([text.tokens for text in trace.texts])
    tokens[start:, 0] = np.where(own[start:] == 0, 1, 0)
    accepted[start:] = 0
    return replace(
        trace, drafters=(replace(table, tokens=tokens, accepted=accepted), *trace.drafters[1:])
    )


def online(max_length: int, drafters: int) -> list[Controller]:
    """Controllers that start without knowledge and learn online."""
    arms = [FALLBACK]
    arms += [
        Action(length, drafter)
        for drafter in range(drafters)
        for length in ARMS
        if length <= max_length
    ]
    return [
        Ucb1(max_length, arms=arms),
        Thompson(max_length, arms=arms),
        Exp3(max_length, arms=arms),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=int, default=4, help="prompts of one kind in a row")
    parser.add_argument("--stale", action="store_true", help="the first drafter fails half way")
    parser.add_argument("--prompts", type=int, help="held out, a domain; all by default")
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", help="as for train_policy.py")
    options = parser.parse_intermixed_args(arguments)
    set_threads(None)
    console = Console()
    place = Place.of(options.overrides, options.prompts, console)
    config, task = place.config, place.task
    prompts, trace = place.prompts, place.held.trace
    order = arranged(prompts, options.run)
    prompts, trace = [prompts[n] for n in order], trace.select(order)
    if options.stale:
        trace = stale(trace, len(order) // 2)
    with tempfile.TemporaryDirectory() as folder:
        actor = learn(config, task, Path(folder), console).actor
    held = HeldOut.of(trace, task.profile)
    best = held.best_action
    fixed = FixedLength(best.length, best.drafter)
    unguarded = LearnedPolicy(actor, task.actions, task.spec)
    inner = LearnedPolicy(actor, task.actions, task.spec)
    controllers: list[Controller] = [
        FixedLength(0),
        fixed,
        *online(config.env.max_length, len(task.pair.drafters)),
        unguarded,
        Guarded(inner, trusted=True),
    ]
    records = run_benchmark(
        ReplaySession(trace, task.profile),
        controllers,
        prompts,
        cost=task.profile.at().features(),
        warmup=0,
        time=ProfileTime(task.profile.policy),
    )
    tokens: dict[str, list[float]] = {controller.name: [] for controller in controllers}
    seconds: dict[str, list[float]] = {controller.name: [] for controller in controllers}
    for record in records:
        tokens[record.method].append(len(record.generation.tokens))
        seconds[record.method].append(record.generation.seconds)
    figures, details = {}, {}
    for name in tokens:
        own = np.array(tokens[name]), np.array(seconds[name])
        plain = np.array(tokens[controllers[0].name]), np.array(seconds[controllers[0].name])
        base = np.array(tokens[fixed.name]), np.array(seconds[fixed.name])
        figures[f"{name}_speedup"] = paired_ratio(*own, *plain)
        details[name] = {
            "speedup": paired_ratio(*own, *plain),
            "speedup_ci95": paired_ratio_interval(*own, *plain),
            "vs_best_fixed": paired_ratio(*own, *base),
            "vs_best_fixed_ci95": paired_ratio_interval(*own, *base),
        }
    found = {"best_fixed": str(best), "oracle": held.oracle, "methods": details}
    finish(figures, options.json, details={"details": found})


if __name__ == "__main__":
    main()
