"""What batch controllers ask of a cost model."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.decoding.round import Round


class VerificationPrices(Protocol):
    """Seconds of a round's verification, or how they grow, in any unit."""

    def verifying(self, rows: np.ndarray, verified: np.ndarray, context: np.ndarray) -> np.ndarray:
        """Of a round of `rows` that verifies `verified` drafted tokens; arrays that broadcast."""
        ...


class Prices(VerificationPrices, Protocol):
    """Seconds of the parts of a round; `costs.batch_costs.BatchCosts` is one."""

    def drafting(
        self,
        drafter: int,
        rows: np.ndarray,
        context: np.ndarray,
        unread: np.ndarray | float = 0.0,
        stopping: bool = False,
    ) -> np.ndarray:
        """Of one level of a draft over `rows`, which have `unread` tokens to catch up on in all.

        `stopping`: a threshold may stop some of them there.
        """
        ...

    def beginning(self, drafter: int, rows: np.ndarray) -> np.ndarray:
        """Of a round in which `rows` draft, beyond the levels; 0 where no row does."""
        ...

    def deciding(self, rows: int) -> float:
        """Of a learned policy's look and decision."""
        ...

    def features(self, rows: int, context: float) -> CostFeatures:
        """As the policy of a single row sees them."""
        ...


class Contexts:
    """How long the text in each row is."""

    def __init__(self) -> None:
        self._tokens: dict[int, int] = {}

    def reset(self) -> None:
        self._tokens.clear()

    def admit(self, row: int, prompt: Sequence[int]) -> None:
        self._tokens[row] = len(prompt)

    def observe(self, rows: Sequence[int], rounds: Sequence[Round]) -> None:
        tokens = self._tokens
        for row, round_ in zip(rows, rounds):
            tokens[row] += len(round_.tokens)

    def mean(self, rows: Sequence[int]) -> float:
        """Average of `rows`."""
        tokens = self._tokens
        return sum(tokens[row] for row in rows) / len(rows)
