"""Many texts at once, live: `python benchmarks/batch_live.py --rows 8 --json FILE [model=smollm2]`.

Held-out prompts are decoded in batches under every batch controller, and one text after the other
without drafts. All batches take turns on each group of prompts, `--repeats` times in random order.
Of each group, the run with the median throughput counts: a shared machine slows some of them down.
Costs are measured first, and controllers are tuned or trained on the training prompts' recording at
these costs. A batch is timed while it is full: until a row becomes free and no text of the group is
waiting. The tokens emitted by then bear their share of the reading of all prompts. Every text must
equal plain decoding's. `NAME_replayed` is the speedup over plain decoding that replay of the
training prompts predicts at these costs, without the reading of prompts.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from policy import configured
from report import finish
from rich.console import Console

from adaspec_rl.comparison.batch_contestants import (
    LEARNED,
    LIVE_GROUPS,
    OWN,
    contestants,
    live_decisions,
    order_of,
)
from adaspec_rl.comparison.statistics import paired_ratio_interval
from adaspec_rl.config import TrainConfig
from adaspec_rl.control.baselines.fixed import FixedLength
from adaspec_rl.control.batch_controller import BatchController
from adaspec_rl.control.batch_generation import Asked, generate_batch
from adaspec_rl.control.generation import generate
from adaspec_rl.control.observation import CostFeatures, ObservationSpec
from adaspec_rl.costs.batch_costs import BatchCosts
from adaspec_rl.costs.batch_measurement import measure_batch_costs
from adaspec_rl.data.prompts import EncodedPrompt
from adaspec_rl.decoding.batch import Batch
from adaspec_rl.decoding.survival import Survival
from adaspec_rl.decoding.text import DecodingRules
from adaspec_rl.from_config import pair_from, recording_from, sampling_from, set_threads
from adaspec_rl.pairs.pair import Pair
from adaspec_rl.prompts import prompts_from
from adaspec_rl.replay.batch_replay import replay
from adaspec_rl.replay.batch_rows import BatchTables

SINGLE = "one_by_one"


@dataclass(frozen=True, slots=True)
class Timed:
    """The tokens of a group of prompts, and their seconds."""

    tokens: int
    seconds: float

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


@dataclass(slots=True)
class Sums:
    """One way of decoding: its timings of each group of prompts, and its work in all of them."""

    groups: list[list[Timed]] = field(default_factory=list)
    offered: int = 0
    verified: int = 0
    rounds: int = 0
    deciding: float = 0.0  # seconds in which controllers observed, decided, allotted and learned
    different: int = 0  # texts that differ from plain decoding's

    @property
    def usual(self) -> list[Timed]:
        """Each group's timing with the median throughput."""
        ordered = (sorted(timings, key=lambda one: one.rate) for timings in self.groups)
        return [timings[len(timings) // 2] for timings in ordered]

    @property
    def tokens(self) -> np.ndarray:
        """Of each group."""
        return np.array([float(one.tokens) for one in self.usual])

    @property
    def seconds(self) -> np.ndarray:
        """Of each group."""
        return np.array([one.seconds for one in self.usual])

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return float(self.tokens.sum() / self.seconds.sum())


@dataclass(frozen=True, slots=True)
class Bench:
    """The pairs, rules and costs of the benchmark."""

    batched: Pair
    alone: Pair
    rules: DecodingRules
    heads: Sequence[Survival]
    costs: BatchCosts
    recorded: BatchTables  # training prompts
    rows: int
    clock: Callable[[], float]

    def in_a_batch(
        self, controller: BatchController, prompts: Sequence[EncodedPrompt], sums: Sums
    ) -> list[list[int]]:
        """Decode a group of prompts in a batch; returns the texts."""
        pair = self.batched
        batch = Batch(
            pair.target,
            pair.drafters,
            self.rows,
            rules=self.rules,
            survival=self.heads,
            clock=self.clock,
        )
        asked = [Asked(prompt.ids, number) for number, prompt in enumerate(prompts)]
        made = generate_batch(batch, controller, asked, features=self.costs.features)
        assert not any(answer.error for answer in made.answers)
        sums.groups[-1].append(Timed(made.full_tokens, made.full_share_seconds))
        sums.offered += made.offered
        sums.verified += made.verified
        sums.rounds += made.rounds
        sums.deciding += made.controller_seconds
        return [answer.tokens for answer in made.answers]

    def replayed(self, controller: BatchController, texts: int) -> float:
        """Tokens a second in replay of the training prompts."""
        order = order_of(self.recorded.trace, self.rows, texts, 1)
        return replay(self.recorded, self.costs, controller, order, self.rows).throughput

    def one_by_one(self, prompts: Sequence[EncodedPrompt], sums: Sums) -> list[list[int]]:
        """Decode a group of prompts plainly, one after the other; returns the texts."""
        session = self.alone.session(
            max_new_tokens=self.rules.max_new_tokens,
            sampling=self.rules.sampling,
            verification=self.rules.verification,
        )
        unused = CostFeatures(0.0, 0.0, 0.0)
        began = self.clock()
        made = [
            generate(session, FixedLength(0), prompt.ids, cost=unused, seed=number)
            for number, prompt in enumerate(prompts)
        ]
        seconds = self.clock() - began
        sums.groups[-1].append(Timed(sum(len(one.tokens) for one in made), seconds))
        return [one.tokens for one in made]


def compared(ours: Sums, theirs: Sums) -> list[float]:
    """Throughput divided by another way's, and the 95% interval over groups of prompts."""
    interval = paired_ratio_interval(ours.tokens, ours.seconds, theirs.tokens, theirs.seconds)
    return [ours.rate / theirs.rate, *interval]


def play(
    bench: Bench,
    controllers: Mapping[str, BatchController],
    prompts: Sequence[EncodedPrompt],
    size: int,
    repeats: int,
    console: Console,
) -> dict[str, Sums]:
    """Decode every group of `size` prompts `repeats` times in every batch, in random order.

    Texts one by one are decoded once, as they take long.
    """
    sums = {name: Sums() for name in (SINGLE, *controllers)}
    groups = [prompts[n : n + size] for n in range(0, len(prompts) - size + 1, size)]
    if not groups:
        raise SystemExit(f"{len(prompts)} prompts make no group of {size}: raise --prompts")
    order = np.random.default_rng(0)  # in a rotation, each way always follows the same other one
    for number, group in enumerate(groups):
        for total in sums.values():
            total.groups.append([])
        made: dict[str, list[list[int]]] = {}
        for turn in range(repeats):
            for name in order.permutation(list(controllers) if turn else list(sums)).tolist():
                if name == SINGLE:
                    made[name] = bench.one_by_one(group, sums[name])
                else:
                    made[name] = bench.in_a_batch(controllers[name], group, sums[name])
            for name, texts in made.items():
                wrong = sum(ours != theirs for ours, theirs in zip(texts, made[SINGLE]))
                sums[name].different += wrong
        console.print(
            f"group {number + 1} of {len(groups)}: "
            + ", ".join(f"{name} {total.rate:.0f}" for name, total in sums.items())
        )
    return sums


def prepared(
    config: TrainConfig, rows: int, options: argparse.Namespace, console: Console
) -> tuple[Bench, dict[str, Callable[[int], BatchController]], list[EncodedPrompt]]:
    """The pairs, costs, trained controllers and held-out prompts."""
    clock = time.process_time if options.processor_time else time.perf_counter
    alone, batched = (pair_from(config.model, config.engine) for _ in range(2))
    rules = DecodingRules(
        frozenset(batched.eos_ids),
        config.env.max_new_tokens,
        sampling_from(config.env),
        config.env.verification,
    )
    training = prompts_from(config, "train", alone, console, config.replay.prompts)
    trace, heads = recording_from(config, alone, training, console)
    costs = measure_batch_costs(
        batched.target,
        batched.drafters,
        [prompt.ids for prompt in training[:rows]],
        rows=rows,
        rules=rules,
        survival=heads,
        max_length=config.env.max_length,
        seconds=options.cost_seconds,
        clock=clock,
    )
    spec = ObservationSpec(
        LIVE_GROUPS, config.env.max_length, alone.target.vocab_size, len(alone.drafters)
    )
    loads = [1 << n for n in range(rows.bit_length())]
    short = replace(rules, max_new_tokens=min(32, rules.max_new_tokens))

    def batch_of(size: int) -> Batch:
        return Batch(
            batched.target, batched.drafters, size, rules=short, survival=heads, clock=clock
        )

    asked = [Asked(prompt.ids) for prompt in training]
    recorded = BatchTables(trace)
    makers = contestants(
        recorded,
        costs,
        spec,
        options.tuning_texts,
        console,
        loads=loads,
        deciding=live_decisions(batch_of, asked, rows),
    )
    held_out = list(prompts_from(config, "test", alone, console, options.prompts))
    np.random.default_rng(0).shuffle(held_out)  # every group mixes domains
    bench = Bench(batched, alone, rules, heads, costs, recorded, rows, clock)
    return bench, makers, held_out


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=64, help="held-out ones, a domain")
    parser.add_argument("--group", type=int, default=16, help="prompts decoded at a time")
    parser.add_argument("--repeats", type=int, default=3, help="of every group, in every way")
    parser.add_argument("--cost-seconds", type=float, default=20.0)
    parser.add_argument("--tuning-texts", type=int, default=32)
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="one thread, whose processor time counts: for machines that do other work meanwhile",
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", help="as for train_policy.py")
    options = parser.parse_intermixed_args(arguments)
    set_threads(1 if options.processor_time else None)
    console = Console()
    config = configured(options.overrides)
    bench, makers, prompts = prepared(config, options.rows, options, console)
    controllers = {name: make(options.rows) for name, make in makers.items()}
    sums = play(bench, controllers, prompts, options.group, options.repeats, console)
    rivals = [name for name in controllers if name not in OWN]
    figures: dict[str, float] = {
        "batched_plain_vs_one_by_one": sums["plain"].rate / sums[SINGLE].rate,
        "texts_different": sum(total.different for total in sums.values()),
    }
    replayed = {
        name: bench.replayed(make(options.rows), options.tuning_texts)
        for name, make in makers.items()
    }
    for name, rate in replayed.items():
        figures[f"{name}_replayed"] = rate / replayed["plain"]
    details: dict[str, Any] = {"costs": bench.costs.to_dict(), "controllers": {}}
    for name, total in sums.items():
        figures[f"{name}_vs_plain"] = total.rate / sums["plain"].rate
        details["controllers"][name] = {
            "tokens_per_second": total.rate,
            "vs_plain": compared(total, sums["plain"]),
            "rounds": total.rounds,
            "deciding_seconds_a_round": total.deciding / max(total.rounds, 1),
            "offered": total.offered,
            "verified": total.verified,
        }
    for name in rivals:
        found = compared(sums[LEARNED], sums[name])
        figures[f"{LEARNED}_vs_{name}"] = found[0]
        details["controllers"][name]["learned_vs_it"] = found
    finish(figures, options.json, details=details)


if __name__ == "__main__":
    main()
