"""Predictions for exports: their own files, loaded back, are replayed beside plain decoding."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from adaspec_rl.comparison.statistics import paired_ratio, paired_ratio_interval
from adaspec_rl.control.batch_controller import BatchController
from adaspec_rl.control.batching.fixed import FixedForAll
from adaspec_rl.costs.batch_costs import BatchCosts
from adaspec_rl.interop.exported import Prediction
from adaspec_rl.recording.trace import Trace
from adaspec_rl.replay.batch_replay import Totals, replay
from adaspec_rl.replay.batch_rows import BatchTables

C = TypeVar("C")
FILLED = 3  # least number of texts per row


@dataclass(frozen=True, slots=True)
class Replayable:
    """An exported part as a batch controller."""

    make: Callable[[], BatchController]
    drafter: int | None = None  # the engine's only drafter; None: all
    drafts: Callable[[Trace], Trace] = lambda trace: trace  # the engine's own drafts


@dataclass(frozen=True, slots=True)
class Tuning:
    """The texts, costs and rows on which candidates are compared."""

    trace: Trace
    costs: BatchCosts
    rows: int


def of_drafter(costs: BatchCosts, drafter: int) -> BatchCosts:
    """The costs with only this drafter."""
    return replace(costs, drafters=(costs.drafters[drafter],))


def predictions(
    parts: Mapping[str, Replayable], trace: Trace, costs: BatchCosts, sizes: Sequence[int]
) -> dict[str, tuple[Prediction, ...]]:
    """Each part's predicted speedup at each number of rows."""
    plain = {size: _totals(BatchTables(trace), costs, FixedForAll(0), size) for size in sizes}
    return {
        name: tuple(_prediction(part, plain[size], trace, costs, size) for size in sizes)
        for name, part in parts.items()
    }


def _prediction(
    part: Replayable, plain: Totals, trace: Trace, costs: BatchCosts, rows: int
) -> Prediction:
    if part.drafter is not None:
        trace, costs = trace.of_drafters([part.drafter]), of_drafter(costs, part.drafter)
    ours = _totals(BatchTables(part.drafts(trace)), costs, part.make(), rows)
    sums = (ours.tokens, ours.seconds, plain.tokens, plain.seconds)
    low, high = paired_ratio_interval(*sums)
    return Prediction(rows, paired_ratio(*sums), low, high)


def fastest(candidates: Sequence[C], part: Callable[[C], Replayable], own: Tuning) -> C:
    """The candidate whose part has the highest throughput on the learned texts."""

    def throughput(candidate: C) -> float:
        made = part(candidate)
        tables = BatchTables(made.drafts(own.trace))
        return _totals(tables, own.costs, made.make(), own.rows).throughput

    return max(candidates, key=throughput)


def _totals(
    tables: BatchTables, costs: BatchCosts, controller: BatchController, rows: int
) -> Totals:
    count = len(tables.trace.texts)
    order = np.resize(np.arange(count), max(count, FILLED * rows))
    return replay(tables, costs, controller, order.tolist(), rows)
