"""One draft length for all rows, chosen round by round for the highest goodput."""

import functools
from collections.abc import Sequence

import numpy as np

from adaspec_rl.control.batch_controller import Load
from adaspec_rl.control.batching.prices import NEAR, Prices
from adaspec_rl.control.batching.rule import BatchRule
from adaspec_rl.control.checks import check_between
from adaspec_rl.decoding.round import FALLBACK, Action, Round

CERTAIN = 0.999  # acceptance rates above count as this much


class Goodput(BatchRule):
    """The length that maximises goodput: expected tokens over predicted seconds.

    TurboSpec (arXiv:2406.14066): the moving average `a` of the acceptance rate of recent rounds
    gives the expected tokens of a draft of `k`, `(1 - a^(k+1)) / (1 - a)`; a profiled model gives
    its seconds. Deviates: while it chooses not to draft, every `probe`th round drafts one token
    anyway, as the average would otherwise never move again.
    """

    name = "turbospec_goodput"

    def __init__(
        self,
        prices: Prices,
        max_length: int,
        drafter: int = 0,
        rate: float = 0.1,
        start: float = 0.7,
        probe: int = 64,
    ) -> None:
        """`rate` is the weight of a round in the average, which starts at `start`."""
        check_between("max_length", max_length, 1)
        check_between("rate", rate, 0, 1)
        check_between("probe", probe, 1)
        self._prices, self._drafter = prices, drafter
        self._lengths = np.arange(max_length + 1.0)
        self._rate, self._start, self._probe = rate, start, probe
        self._seconds = functools.lru_cache(maxsize=64)(self._ask)  # the same prices come again

    def reset(self, rows: int) -> None:
        self._average, self._plain = self._start, 0

    def decide(
        self, rows: Sequence[int], observations: np.ndarray | None, load: Load
    ) -> list[Action]:
        a = min(self._average, CERTAIN)
        tokens = (1 - a ** (self._lengths + 1)) / (1 - a)
        length = int((tokens / self._seconds(len(rows), int(load.context / NEAR))).argmax())
        self._plain = 0 if length else self._plain + 1
        if self._plain == self._probe:
            self._plain, length = 0, 1
        return [Action(length, self._drafter) if length else FALLBACK] * len(rows)

    def observe(self, rows: Sequence[int], rounds: Sequence[Round], seconds: float) -> None:
        reached = sum(round_.reached for round_ in rounds)
        if reached:
            accepted = sum(round_.accepted for round_ in rounds) / reached
            self._average += self._rate * (min(accepted, 1.0) - self._average)

    def _ask(self, rows: int, near: int) -> np.ndarray:
        """Seconds of a round by draft length."""
        count, context = np.array(float(rows)), np.array((near + 0.5) * NEAR)
        levels = self._prices.drafting(self._drafter, count, context) * self._lengths
        begins = self._prices.beginning(self._drafter, count) * (self._lengths > 0)
        return begins + levels + self._prices.verifying(count, count * self._lengths, context)
