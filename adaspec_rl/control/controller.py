"""The protocol of controllers: fixed lengths, heuristics and learned policies."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.decoding.round import Action, Round


class Controller(Protocol):
    """Chooses the action of every round."""

    @property
    def name(self) -> str:
        """The name that results use."""
        ...

    @property
    def observes(self) -> ObservationSpec | None:
        """What `decide` is given; None: nothing."""
        ...

    def reset(self, prompt: Sequence[int] = (), seed: int = 0) -> None:
        """A new sequence begins after `prompt`."""
        ...

    def decide(self, observation: np.ndarray | None) -> Action:
        """The next action, given `[features]` float32 (None if `observes` is None)."""
        ...

    def observe(self, round_: Round) -> None:
        """Learn from a round."""
        ...
