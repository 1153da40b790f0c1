"""The compared batch controllers, tuned or trained on recorded texts."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console

from adaspec_rl.config import AgentConfig
from adaspec_rl.console import say
from adaspec_rl.control.batch_controller import BatchController
from adaspec_rl.control.batch_generation import Asked
from adaspec_rl.control.batching.budget import VerificationBudget
from adaspec_rl.control.batching.by_batch_size import (
    ControllerByBatchSize,
    LengthByBatchSize,
    length_table,
)
from adaspec_rl.control.batching.fixed import FixedForAll
from adaspec_rl.control.batching.goodput import Goodput
from adaspec_rl.control.batching.guard import GuardedBatch
from adaspec_rl.control.batching.outlook import Outlook
from adaspec_rl.control.batching.planned import PlannedBatch
from adaspec_rl.control.batching.tiers import TiersByBatchSize
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.costs.batch_costs import BatchCosts
from adaspec_rl.costs.batch_measurement import measure_deciding_live
from adaspec_rl.decoding.batch import Batch
from adaspec_rl.decoding.round import Action
from adaspec_rl.recording.trace import Trace
from adaspec_rl.replay.batch_replay import DecisionCosts, replay
from adaspec_rl.replay.batch_rows import BatchTables
from adaspec_rl.training.batch_hindsight import fit_outlook

LOADS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
MARGIN = 1.02  # times plain decoding's throughput in training that a setting must reach
AGENT = AgentConfig(
    "hindsight",
    total_steps=60_000,
    learning_rate=3e-3,
    batch_size=2048,
    n_epochs=16,
    hidden=[32, 32],
)
THRESHOLDS = (0.5, 0.8)
# Factors on the prices of catching up and of drafting, and rounds for which actions are kept.
PLANS = tuple((*f, hold) for f in ((1.0, 1.0), (0.5, 1.0), (0.25, 0.75)) for hold in (0, 4))
LIVE_GROUPS = ("history", "drafters", "context", "lookup")  # features that are cheap for a batch
LEARNED = "guarded_learned"
OWN = ("planned", "learned", LEARNED)  # the rest are baselines

Make = Callable[[], BatchController]


def order_of(trace: Trace, rows: int, texts: int, seed: int) -> list[int]:
    """Shuffled numbers of texts: at least `texts` of them, and at least two per row."""
    rng = np.random.default_rng(seed)
    count = len(trace.texts)
    passes = -(-max(texts, 2 * rows) // count)
    shuffled = np.concatenate([rng.permutation(count) for _ in range(passes)])
    return shuffled[: max(texts, 2 * rows)].tolist()


@dataclass(frozen=True, slots=True)
class Setting:
    """A controller with one of its settings."""

    kind: str
    value: Any = None  # a drafter, an action, or how to plan


def settings(
    depth: int, drafters: int, costs: BatchCosts, outlook: Outlook, fixed: Action
) -> dict[Setting, Make]:
    """Every controller and setting that is tried at a load; `fixed` is the best action there."""
    lengths = [Action(n, d) for d in range(drafters) for n in (2, 5) if n <= depth]
    stopped = [Action(depth, d, t) for d in range(drafters) for t in THRESHOLDS]
    made: dict[Setting, Make] = {
        Setting("plain"): partial(FixedForAll, 0),
        Setting("fixed", fixed): partial(FixedForAll, fixed.length, fixed.drafter),
    }
    for d in range(drafters):
        made[Setting("goodput", d)] = partial(Goodput, costs, depth, d)
    for a in stopped:
        made[Setting("threshold", a)] = partial(FixedForAll, a.length, a.drafter, a.threshold)
    for a in lengths + stopped:
        made[Setting("budget", a)] = partial(VerificationBudget, costs, {1: a})
    for read, draft, hold in PLANS:
        made[Setting("planned", (read, draft, hold))] = partial(
            PlannedBatch, outlook, costs, read=read, draft=draft, hold=hold
        )
    return made


def contestants(
    tables: BatchTables,
    costs: BatchCosts,
    spec: ObservationSpec,
    texts: int,
    console: Console,
    *,
    loads: Sequence[int] = LOADS,
    deciding: Callable[[Make], DecisionCosts] | None = None,
) -> dict[str, Callable[[int], BatchController]]:
    """Every controller as a function of the load, tuned or trained on the texts of `tables`.

    The learned controller is the one that replay finds fastest at each load: a known one with its
    best setting, or a plan by the outlook. Settings are compared on one half of the texts with an
    outlook that was fitted to the other half, and the other way round, so that plans are not judged
    by texts that they know. Where nothing is `MARGIN` times as fast as plain decoding, the learned
    controller decodes plainly.

    Args:
        texts: how many are decoded at each load, at least, with each setting.
        deciding: measures the seconds of a controller's decisions; None: looks as `costs` say, and
            nothing else.
    """
    loads = sorted({1, *loads})
    trace = tables.trace
    depth, drafters = trace.max_length, len(trace.drafters)
    fit = partial(
        fit_outlook, spec=spec, costs=costs, config=AGENT, depth=depth, seed=0, sizes=loads
    )
    outlook = fit(tables)
    parts = min(2, len(trace.texts))
    halves = [BatchTables(trace.select(range(n, len(trace.texts), parts))) for n in range(parts)]
    others = [fit(half) for half in halves[::-1]]  # each half's, which the other one taught
    say(console, "trained")
    taken: dict[str, DecisionCosts] = {}  # by kind
    if deciding is not None:
        costs, taken = _measured(costs, outlook, depth, deciding)
        say(console, f"a look takes {costs.deciding(1) * 1e3:.2f} ms")
    levels = np.arange(1, depth + 1)
    survivals = [(table.accepted[:, None] >= levels).mean(axis=0) for table in trace.drafters]
    table = length_table(survivals, costs, loads, float(tables.context.mean()))
    tuned: dict[str, dict[int, Setting]] = defaultdict(dict)  # by kind and load
    makes: dict[Setting, Make] = {}
    for rows in loads:
        makes |= settings(depth, drafters, costs, outlook, table[rows])
        rates = _rates(
            [
                (half, settings(depth, drafters, costs, other, table[rows]))
                for half, other in zip(halves, others)
            ],
            costs,
            taken,
            rows,
            texts // 2,
        )
        for setting in sorted(rates, key=lambda one: rates[one]):  # the fastest one comes last
            tuned[setting.kind][rows] = setting
        tuned["learned"][rows] = chosen(rates)
        say(console, f"{rows} rows: learned: {tuned['learned'][rows]}; fixed: {table[rows]}")

    def by_load(kind: str) -> BatchController:
        """The controllers of a kind at all loads."""
        found = tuned[kind]
        made = {setting: makes[setting]() for setting in set(found.values())}
        return ControllerByBatchSize({rows: made[found[rows]] for rows in found}, kind)

    return {
        "plain": lambda rows: FixedForAll(0),
        "fixed_3": lambda rows: FixedForAll(3),
        "length_by_batch_size": lambda rows: LengthByBatchSize(table),
        "sglang_tiers": lambda rows: TiersByBatchSize(depth),
        "turbospec_goodput": lambda rows: by_load("goodput"),
        "threshold": lambda rows: by_load("threshold"),
        "budget": lambda rows: by_load("budget"),
        "planned": lambda rows: by_load("planned"),
        "learned": lambda rows: by_load("learned"),
        LEARNED: lambda rows: GuardedBatch(by_load("learned"), costs, trusted=True),
    }


def chosen(rates: Mapping[Setting, float]) -> Setting:
    """The setting of the learned controller, given every setting's throughput in training."""
    plain = Setting("plain")
    paying = [one for one in rates if one == plain or rates[one] > MARGIN * rates[plain]]
    return max(paying, key=lambda one: rates[one])


def _rates(
    halves: Sequence[tuple[BatchTables, Mapping[Setting, Make]]],
    costs: BatchCosts,
    taken: Mapping[str, DecisionCosts],
    rows: int,
    texts: int,
) -> dict[Setting, float]:
    """Every setting's throughput on all halves of the texts, each with its own controllers."""
    tokens: dict[Setting, float] = defaultdict(float)
    seconds: dict[Setting, float] = defaultdict(float)
    for tables, makes in halves:
        order = order_of(tables.trace, rows, texts, 1)
        for setting, make in makes.items():
            total = replay(tables, costs, make(), order, rows, taken.get(setting.kind))
            tokens[setting] += float(total.tokens.sum())
            seconds[setting] += float(total.seconds.sum())
    return {setting: tokens[setting] / seconds[setting] for setting in tokens}


def _measured(
    costs: BatchCosts, outlook: Outlook, depth: int, deciding: Callable[[Make], DecisionCosts]
) -> tuple[BatchCosts, dict[str, DecisionCosts]]:
    """The costs with those of a look, and what decisions take by kind of controller."""
    planned = deciding(partial(PlannedBatch, outlook, costs, longest=0))
    once, each = planned.looking
    made = settings(depth, 1, costs, outlook, Action(depth))
    one_of_each = {setting.kind: make for setting, make in made.items()}
    taken = {kind: deciding(make) for kind, make in one_of_each.items() if kind != "planned"}
    return replace(costs, policy=once, policy_row=each), taken | {"planned": planned}


def live_decisions(
    batch_of: Callable[[int], Batch], asked: Sequence[Asked], rows: int
) -> Callable[[Make], DecisionCosts]:
    """Measures what decisions take in a live batch, where each follows forward passes.

    Args:
        batch_of: makes a batch of so many rows, all free.
    """

    def taken(make: Make) -> DecisionCosts:
        seconds = measure_deciding_live(batch_of, make(), asked, rows)
        return DecisionCosts(looking=seconds, other=seconds)

    return taken
