"""A schedule of actions for recorded texts, and the controller that plays it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adaspec_rl.decoding.round import Action, Round
from adaspec_rl.recording.trace import Trace


@dataclass(frozen=True, slots=True)
class Schedule:
    """A way through every text: the action at each position where a round may begin."""

    actions: tuple[Action, ...]
    best: np.ndarray  # [M] index into `actions`; the oracle's is 0 where no round begins
    steps: np.ndarray  # [N] cost of each whole text, in autoregressive steps, perhaps expected
    tokens: np.ndarray  # [N]

    @property
    def speedup(self) -> float:
        """Tokens per autoregressive step: the throughput over that of plain decoding."""
        return float(self.tokens.sum() / self.steps.sum())


class ScheduleController:
    """Plays a schedule of recorded texts, as a controller that knew them in advance could."""

    observes = None

    def __init__(self, trace: Trace, schedule: Schedule, name: str) -> None:
        self.name = name
        self._trace, self._schedule = trace, schedule
        self._numbers: dict[tuple[tuple[int, ...], int], int] = {}
        for number, text in enumerate(trace.texts):
            self._numbers.setdefault((tuple(text.prompt.tolist()), text.seed), number)

    def reset(self, prompt: Sequence[int] = (), seed: int = 0) -> None:
        """Find the schedule of a text.

        Raises:
            ValueError: the text was not recorded.
        """
        number = self._numbers.get((tuple(prompt), seed))
        if number is None:
            raise ValueError(
                f"{self.name} knows no text after this prompt of {len(prompt)} tokens with seed "
                f"{seed}: record it first"
            )
        self._at, self._end = self._trace.starts[number], self._trace.starts[number + 1]

    def decide(self, observation: np.ndarray | None) -> Action:
        return self._schedule.actions[self._schedule.best[min(self._at, self._end - 1)]]

    def observe(self, round_: Round) -> None:
        self._at += len(round_.tokens)
