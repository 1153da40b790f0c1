"""Fixed draft lengths."""

from collections.abc import Sequence

import numpy as np

from adaspec_rl.control.checks import check_between
from adaspec_rl.decoding.round import FALLBACK, Action, Round


class FixedLength:
    """The same draft length in every round; length 0 is autoregressive decoding."""

    observes = None

    def __init__(self, length: int, drafter: int = 0, name: str | None = None) -> None:
        self.action = Action(length, drafter) if length else FALLBACK
        self.name = name or (f"fixed_{length}" if length else "autoregressive")

    def reset(self, prompt: Sequence[int] = (), seed: int = 0) -> None:
        pass

    def decide(self, observation: np.ndarray | None) -> Action:
        return self.action

    def observe(self, round_: Round) -> None:
        pass


def fixed_lengths(max_length: int, drafter: int = 0) -> tuple[Action, ...]:
    """The fallback and every length up to `max_length` with one drafter, by length."""
    check_between("max_length", max_length, 1)
    return (FALLBACK, *(Action(length, drafter) for length in range(1, max_length + 1)))
