"""What decides for many texts at once: an action for each row, and how much is verified."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.decoding.round import Action, Round


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of a decoder at this moment."""

    rows: int  # texts that are being written
    waiting: int = 0  # requests that have no row yet


class BatchController(Protocol):
    """Chooses the actions of all rows, round by round.

    A round: `decide`, all rows draft, `allot`, one verification of all rows, `observe`.
    """

    @property
    def name(self) -> str:
        """As results call it."""
        ...

    @property
    def observes(self) -> ObservationSpec | None:
        """What `decide` is given; None: nothing. The same for good."""
        ...

    @property
    def looks(self) -> bool:
        """Whether the next `decide` reads its observations; else it is given None."""
        ...

    @property
    def allots(self) -> bool:
        """Whether `allot` is asked, for which survivals are estimated; else all is verified."""
        ...

    def reset(self, rows: int) -> None:
        """A decoder with `rows` rows begins; none is taken."""
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

    def allot(self, rows: Sequence[int], survivals: Sequence[np.ndarray]) -> list[int]:
        """How many tokens of each row's draft are verified; the rest is thrown away.

        Args:
            survivals: for each of `rows`, for each token of its draft, the estimated chance that
                it and all before it survive, `[k]` falling; empty where nothing was drafted.
        """
        ...

    def observe(self, rows: Sequence[int], rounds: Sequence[Round], seconds: float) -> None:
        """Learn what the round did, which took `seconds`; `drafted` is what was verified."""
        ...
