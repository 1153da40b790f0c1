"""A verification budget: the drafted tokens most likely to survive, over all rows."""

import functools
from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence

import numpy as np

from adaspec_rl.control.batch_controller import Load
from adaspec_rl.control.batching.allotment import likeliest
from adaspec_rl.control.batching.by_batch_size import LengthByBatchSize
from adaspec_rl.control.batching.prices import NEAR, Prices
from adaspec_rl.control.batching.rule import BatchRule
from adaspec_rl.decoding.round import Action


class VerificationBudget(BatchRule):
    """Verifies the tokens most likely to survive, as many as give the most tokens per second.

    All rows draft. The drafted tokens of all rows are ranked by estimated survival, and the first B
    are verified, where the budget B maximises expected tokens over predicted seconds. DSpark
    (arXiv:2607.05147) and vLLM's adaptive verification (vllm-project/vllm#47808). Deviates: B is
    chosen from the current survivals, where vLLM uses those of the round before to avoid a
    synchronisation; survivals come from the trace's calibrated estimate, not from a head trained
    with the drafter; and because drafting is not free here, the draft length depends on the batch
    size, where DSpark always drafts a block.
    """

    name = "budget"
    allots = True

    def __init__(self, prices: Prices, drafts: Mapping[int, Action]) -> None:
        """`drafts` gives the rows' draft action by batch size, as in `LengthByBatchSize`."""
        self._prices = prices
        self._seconds = functools.lru_cache(maxsize=64)(self._ask)  # the same prices come again
        self._drafts = LengthByBatchSize(drafts)

    def decide(
        self, rows: Sequence[int], observations: np.ndarray | None, load: Load
    ) -> list[Action]:
        actions = self._drafts.decide(rows, None, load)
        self._action, self._near = actions[0], int(load.context / NEAR)
        return actions

    def allot(self, rows: Sequence[int], survivals: Sequence[Sequence[float]]) -> list[int]:
        lengths = sorted(map(len, survivals))
        if not lengths[-1]:
            return [0] * len(rows)
        verifying, drafting, beginning = self._seconds(len(rows), self._action, self._near)
        levels = [len(rows) - bisect_right(lengths, depth) for depth in range(lengths[-1])]  # rows
        before = beginning[levels[0]] + sum(drafting[count] for count in levels)
        return likeliest(survivals, verifying, before=before).counts

    def _ask(
        self, rows: int, action: Action, near: int
    ) -> tuple["array[float]", list[float], list[float]]:
        """Seconds of a round by verified tokens, and of a level and of beginning by its rows."""
        count, context = np.arange(rows + 1.0), np.array((near + 0.5) * NEAR)
        drafted = np.arange(rows * action.length + 1.0)
        return (
            array("d", self._prices.verifying(np.array(float(rows)), drafted, context)),
            self._prices.drafting(action.drafter, count, context, stopping=True).tolist(),
            self._prices.beginning(action.drafter, count).tolist(),
        )
