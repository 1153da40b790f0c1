"""What batch controllers need from a cost model."""

from typing import Protocol

import numpy as np

from adaspec_rl.control.observation import CostFeatures

NEAR = 32.0  # tokens of context within which prices count as the same


class VerificationPrices(Protocol):
    """Seconds of a round's verification in any unit, or how they grow."""

    def verifying(self, rows: np.ndarray, verified: np.ndarray, context: np.ndarray) -> np.ndarray:
        """For a round of `rows` that verifies `verified` drafted tokens; the arrays broadcast."""
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
        """Seconds of one level of a draft over `rows`, which have `unread` tokens in total to read.

        `stopping`: a threshold may stop some of the rows there.
        """
        ...

    def beginning(self, drafter: int, rows: np.ndarray) -> np.ndarray:
        """Seconds of a round in which `rows` draft, besides its levels; 0 if no row drafts."""
        ...

    def deciding(self, rows: int) -> float:
        """Seconds of a learned policy's look and decision."""
        ...

    def features(self, rows: int, context: float) -> CostFeatures:
        """The costs as a policy for a single row observes them."""
        ...
