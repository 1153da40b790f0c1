"""A separate single-text controller for every row."""

from collections.abc import Callable, Sequence

import numpy as np

from adaspec_rl.control.batch_controller import Load
from adaspec_rl.control.batching.rule import BatchRule
from adaspec_rl.control.controller import Controller
from adaspec_rl.decoding.round import Action, Round


class Rowwise(BatchRule):
    """Each row has its own controller, which decides as if it were alone.

    A learned policy learns about the batch from the group `cost` of its observations, which comes
    from `costs.batch_costs.BatchCosts.features` at the batch's size.
    """

    def __init__(self, make: Callable[[], Controller]) -> None:
        self._make = make
        self._controllers = [make()]
        self.observes = self._controllers[0].observes
        self.name = f"rowwise_{self._controllers[0].name}"

    def reset(self, rows: int) -> None:
        self._controllers = [self._make() for _ in range(rows)]

    def admit(self, row: int, prompt: Sequence[int], seed: int) -> None:
        self._controllers[row].reset(prompt, seed)

    def decide(
        self, rows: Sequence[int], observations: np.ndarray | None, load: Load
    ) -> list[Action]:
        return [
            self._controllers[row].decide(None if observations is None else observations[n])
            for n, row in enumerate(rows)
        ]

    def observe(self, rows: Sequence[int], rounds: Sequence[Round], seconds: float) -> None:
        for row, round_ in zip(rows, rounds):
            self._controllers[row].observe(round_)
