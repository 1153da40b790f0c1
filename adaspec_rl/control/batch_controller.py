"""The protocol of controllers for many texts: an action per row, and how much is verified."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.decoding.round import Action, Round


@dataclass(frozen=True, slots=True)
class Load:
    """The current load of a decoder."""

    rows: int  # texts that are being written
    waiting: int = 0  # requests that have no row yet
    context: float = 0.0  # average number of tokens in a row


class BatchController(Protocol):
    """Chooses the actions of all rows, round by round.

    In each round, `decide` is called, all rows draft, `allot` is called, all rows are verified in
    one pass, and `observe` is called.
    """

    @property
    def name(self) -> str:
        """The name that results use."""
        ...

    @property
    def observes(self) -> ObservationSpec | None:
        """What `decide` is given; None: nothing. It never changes."""
        ...

    @property
    def looks(self) -> bool:
        """Whether the next `decide` reads its observations; if not, it is given None."""
        ...

    @property
    def allots(self) -> bool:
        """Whether `allot` is called, which needs estimated survivals; if not, all is verified."""
        ...

    def reset(self, rows: int) -> None:
        """Decoding starts with `rows` rows, all free."""
        ...

    def admit(self, row: int, prompt: Sequence[int], seed: int) -> None:
        """A text begins in `row` after `prompt`."""
        ...

    def decide(
        self, rows: Sequence[int], observations: np.ndarray | None, load: Load
    ) -> list[Action]:
        """The next action of each of `rows`, the rows that hold a text.

        Args:
            observations: `[rows, features]` float32; None if `observes` is None or not `looks`.
        """
        ...

    def allot(self, rows: Sequence[int], survivals: Sequence[Sequence[float]]) -> list[int]:
        """How many tokens of each row's draft are verified; the rest are dropped.

        Args:
            survivals: for each of `rows`, the estimated chance `[k]` that each token of its draft
                and all tokens before it survive, so never rising; empty where nothing was drafted.
        """
        ...

    def observe(self, rows: Sequence[int], rounds: Sequence[Round], seconds: float) -> None:
        """Learn from the round, which took `seconds`; `drafted` counts the verified tokens."""
        ...
