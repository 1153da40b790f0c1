"""What batch controllers need from a cost model."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.decoding.round import Round


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


class Contexts:
    """The length of the text in each row."""

    def __init__(self) -> None:
        self._tokens: dict[int, int] = {}  # less those that all rows have gained together
        self._gained = 0

    def reset(self) -> None:
        self._tokens.clear()
        self._gained = 0

    def admit(self, row: int, prompt: Sequence[int]) -> None:
        self._tokens[row] = len(prompt) - self._gained

    def observe(self, rows: Sequence[int], rounds: Sequence[Round]) -> None:
        tokens = self._tokens
        for row, round_ in zip(rows, rounds):
            tokens[row] += len(round_.tokens)

    def observe_plain(self) -> None:
        """Every row gained a token."""
        self._gained += 1

    def mean(self, rows: Sequence[int]) -> float:
        """The average length over `rows`."""
        tokens = self._tokens
        return sum(tokens[row] for row in rows) / len(rows) + self._gained
