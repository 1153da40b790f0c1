"""The batch controllers that are compared."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from adaspec_rl.comparison.batch_contestants import (
    LEARNED,
    Setting,
    chosen,
    contestants,
    order_of,
)
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.costs.batch_costs import BatchCosts
from adaspec_rl.costs.forward_costs import ForwardCosts
from adaspec_rl.replay.batch_replay import replay
from adaspec_rl.replay.batch_rows import BatchTables
from tests.recording.recordings import toy_trace
from tests.replay.test_batch_replay import flat_costs

SPEC = ObservationSpec(("history", "context"), 4, 16, 2)
TEXTS = 20


def rates(tables: BatchTables, costs: BatchCosts, rows: int) -> dict[str, float]:
    """Tokens a second of every controller in replay of the texts that it was tuned on."""
    console = Console(quiet=True)
    makers = contestants(tables, costs, SPEC, TEXTS, console, loads=(1, 2, 4))
    order = order_of(tables.trace, rows, TEXTS, 1)
    found = {}
    for name, make in makers.items():
        total = replay(tables, costs, make(rows), order, rows)
        found[name] = total.throughput
        if name == LEARNED:
            found["drafted"] = total.drafted
    return found


def test_the_learned_controller_is_the_best_one_at_each_load(tmp_path: Path) -> None:
    tables, costs = BatchTables(toy_trace(tmp_path)), flat_costs()
    for rows in (1, 4):
        found = rates(tables, costs, rows)
        known = max(found[name] for name in ("threshold", "budget", "turbospec_goodput"))
        best = max(known, found["planned"])
        assert found["learned"] > 0.95 * best > found["plain"]  # chosen on halves of the texts


@pytest.mark.parametrize(
    ("budget", "planned", "best"),
    [(1.5, 1.49, "budget"), (1.5, 1.6, "planned"), (1.05, 1.15, "planned"), (1.01, 1.0, "plain")],
)
def test_the_fastest_is_chosen_if_it_pays(budget: float, planned: float, best: str) -> None:
    found = {Setting("plain"): 1.0, Setting("budget"): budget, Setting("planned"): planned}
    assert chosen(found).kind == best


def test_the_learned_controller_decodes_plainly_where_nothing_pays(tmp_path: Path) -> None:
    """Verified tokens cost as much as plain rounds."""
    rows, widths = np.array([1.0, 4.0]), np.array([1.0, 2.0])
    seconds = tuple(tuple((10.0 * n * w,) for w in widths) for n in rows)
    dear = replace(flat_costs(), target=ForwardCosts((1, 4), (1, 2), (1,), seconds))
    found = rates(BatchTables(toy_trace(tmp_path)), dear, 4)
    assert found["drafted"] == 0 and found["learned"] == found[LEARNED] == found["plain"]
    assert found["fixed_3"] < found["plain"]
