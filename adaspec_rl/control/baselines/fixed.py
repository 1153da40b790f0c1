"""Fixed draft lengths, and other actions that never change."""

from collections.abc import Sequence

import numpy as np

from adaspec_rl.control.checks import check_between
from adaspec_rl.decoding.round import FALLBACK, Action, Round


class FixedAction:
    """The same action in every round."""

    observes = None

    def __init__(self, action: Action, name: str) -> None:
        self.action = action
        self.name = name

    def reset(self, prompt: Sequence[int] = (), seed: int = 0) -> None:
        pass

    def decide(self, observation: np.ndarray | None) -> Action:
        return self.action

    def observe(self, round_: Round) -> None:
        pass


class FixedLength(FixedAction):
    """The same draft length in every round; length 0 is autoregressive decoding."""

    def __init__(self, length: int, drafter: int = 0, name: str | None = None) -> None:
        action = Action(length, drafter) if length else FALLBACK
        super().__init__(action, name or (f"fixed_{length}" if length else "autoregressive"))


def fixed_lengths(max_length: int, drafter: int = 0) -> tuple[Action, ...]:
    """The fallback and every length up to `max_length` with one drafter, in order of length."""
    check_between("max_length", max_length, 1)
    return (FALLBACK, *(Action(length, drafter) for length in range(1, max_length + 1)))
