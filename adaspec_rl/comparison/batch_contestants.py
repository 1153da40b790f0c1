"""The compared batch controllers, tuned or trained on recorded texts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Console

from adaspec_rl.config import AgentConfig
from adaspec_rl.console import say
from adaspec_rl.control.batch_controller import BatchController
from adaspec_rl.control.batching.budget import VerificationBudget
from adaspec_rl.control.batching.by_batch_size import LengthByBatchSize, length_table
from adaspec_rl.control.batching.fixed import FixedForAll
from adaspec_rl.control.batching.goodput import Goodput
from adaspec_rl.control.batching.guard import GuardedBatch
from adaspec_rl.control.batching.planned import PlannedBatch
from adaspec_rl.control.batching.tiers import TiersByBatchSize
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.costs.batch_costs import BatchCosts
from adaspec_rl.decoding.round import Action
from adaspec_rl.recording.trace import Trace
from adaspec_rl.replay.batch_replay import replay
from adaspec_rl.replay.batch_rows import BatchTables
from adaspec_rl.training.batch_hindsight import fit_outlook

LOADS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TUNED = (1, 8, 64, 256)  # loads at which settings are tuned; other loads use the next lower one's
AGENT = AgentConfig(
    "hindsight",
    total_steps=60_000,
    learning_rate=3e-3,
    batch_size=2048,
    n_epochs=4,
    hidden=[32, 32],
)
THRESHOLDS = (0.5, 0.8)
FACTORS = ((1.0, 1.0), (0.25, 0.75), (1.0, 1.5))  # on the prices of verifying, drafting
LIVE_GROUPS = ("history", "drafters", "context", "lookup")  # features that are cheap for a batch
LEARNED = "guarded_learned"

Make = Callable[[], BatchController]


def order_of(trace: Trace, rows: int, texts: int, seed: int) -> list[int]:
    """Shuffled numbers of texts: at least `texts` of them, and at least two per row."""
    rng = np.random.default_rng(seed)
    count = len(trace.texts)
    passes = -(-max(texts, 2 * rows) // count)
    shuffled = np.concatenate([rng.permutation(count) for _ in range(passes)])
    return shuffled[: max(texts, 2 * rows)].tolist()


def best(
    makes: Mapping[Any, Make], tables: BatchTables, costs: BatchCosts, rows: int, texts: int
) -> Any:
    """The key of the controller that decodes the training texts fastest."""
    order = order_of(tables.trace, rows, texts, 1)
    rates = {k: replay(tables, costs, make(), order, rows).throughput for k, make in makes.items()}
    return max(rates, key=lambda key: rates[key])


def candidates(depth: int, drafters: int) -> list[Action]:
    """The actions that rows may take: fixed lengths, and full lengths with a threshold."""
    lengths = [Action(n, d) for d in range(drafters) for n in (2, 5) if n <= depth]
    return lengths + [Action(depth, d, t) for d in range(drafters) for t in THRESHOLDS]


def contestants(
    tables: BatchTables,
    costs: BatchCosts,
    spec: ObservationSpec,
    texts: int,
    console: Console,
    *,
    loads: Sequence[int] = LOADS,
    tuned: Sequence[int] = TUNED,
    looking: Callable[[BatchController], tuple[float, float]] | None = None,
) -> dict[str, Callable[[int], BatchController]]:
    """Every controller as a function of the load, tuned or trained on the texts of `tables`.

    Args:
        looking: measures the seconds of an observation, once and per row; None: from `costs`.
    """
    trace = tables.trace
    depth, drafters = trace.max_length, len(trace.drafters)
    outlook = fit_outlook(tables, spec, costs, AGENT, depth=depth, seed=0, sizes=loads)
    say(console, "trained")
    if looking is not None:
        once, each = looking(PlannedBatch(outlook, costs, longest=0))
        costs = replace(costs, policy=once, policy_row=each)
        say(console, f"a look takes {once * 1e3:.2f} ms and {each * 1e3:.2f} ms a row")
    levels = np.arange(1, depth + 1)
    survivals = [(table.accepted[:, None] >= levels).mean(axis=0) for table in trace.drafters]
    table = length_table(survivals, costs, loads, float(tables.context.mean()))
    threshold: dict[int, Action] = {}
    budget: dict[int, Action] = {}
    factors: dict[int, tuple[float, float]] = {}
    goodput: dict[int, int] = {}

    def planned(read: float, draft: float) -> BatchController:
        return GuardedBatch(PlannedBatch(outlook, costs, read=read, draft=draft), costs)

    for rows in tuned:
        told = candidates(depth, drafters)
        stops = {a: lambda a=a: FixedForAll(a.length, a.drafter, a.threshold) for a in told}
        stops = {action: make for action, make in stops.items() if action.threshold}
        offers = {a: lambda a=a: VerificationBudget(costs, {1: a}) for a in told}
        good = {d: lambda d=d: Goodput(costs, depth, d) for d in range(drafters)}
        plans = {f: lambda f=f: planned(*f) for f in FACTORS}
        threshold[rows] = best(stops, tables, costs, rows, texts)
        budget[rows] = best(offers, tables, costs, rows, texts)
        goodput[rows] = best(good, tables, costs, rows, texts)
        factors[rows] = best(plans, tables, costs, rows, texts)
        say(
            console,
            f"{rows} rows: threshold: {threshold[rows]}; budget: {budget[rows]}; learned: "
            f"{factors[rows]}; fixed: {table[rows]}",
        )

    def at(found: Mapping[int, Any], rows: int) -> Any:
        return found[max(size for size in found if size <= rows)]

    return {
        "plain": lambda rows: FixedForAll(0),
        "fixed_3": lambda rows: FixedForAll(3),
        "length_by_batch_size": lambda rows: LengthByBatchSize(table),
        "sglang_tiers": lambda rows: TiersByBatchSize(depth),
        "turbospec_goodput": lambda rows: Goodput(costs, depth, at(goodput, rows)),
        "threshold": lambda rows: LengthByBatchSize(threshold),
        "budget": lambda rows: VerificationBudget(costs, budget),
        "learned": lambda rows: PlannedBatch(
            outlook, costs, read=at(factors, rows)[0], draft=at(factors, rows)[1]
        ),
        LEARNED: lambda rows: planned(*at(factors, rows)),
    }
