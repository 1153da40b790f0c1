"""A verification budget: the drafted tokens most likely to survive, over all rows."""

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from adaspec_rl.control.batch_controller import Load
from adaspec_rl.control.batching.allotment import padded, ranked, top
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
        self._verifying = functools.lru_cache(maxsize=64)(self._ask)  # the same prices come again
        self._drafts = LengthByBatchSize(drafts)

    def decide(
        self, rows: Sequence[int], observations: np.ndarray | None, load: Load
    ) -> list[Action]:
        actions = self._drafts.decide(rows, None, load)
        self._action, self._near = actions[0], int(load.context / NEAR)
        return actions

    def allot(self, rows: Sequence[int], survivals: Sequence[np.ndarray]) -> list[int]:
        offered = padded(survivals)
        chances = ranked(offered)
        if not len(chances):
            return [0] * len(rows)
        tokens = len(rows) + np.concatenate([[0.0], np.cumsum(chances)])
        levels = np.count_nonzero(offered, axis=0).astype(float)
        drafter, stopping = self._action.drafter, self._action.threshold > 0
        context = np.array((self._near + 0.5) * NEAR)
        spent = self._prices.drafting(drafter, levels, context, stopping=stopping).sum()
        spent = spent + self._prices.beginning(drafter, levels[0])
        verifying = self._verifying(len(rows), offered.shape[1], self._near)
        seconds = spent + verifying[: len(tokens)]
        return top(offered, int((tokens / seconds).argmax())).tolist()

    def _ask(self, rows: int, depth: int, near: int) -> np.ndarray:
        """Seconds of a round of `rows` that verifies 0, 1, … `rows * depth` drafted tokens."""
        count, context = np.array(float(rows)), np.array((near + 0.5) * NEAR)
        return self._prices.verifying(count, np.arange(rows * depth + 1.0), context)
