"""Any controller, with its rounds verified leniently."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from adaspec_rl.control.controller import Controller
from adaspec_rl.decoding.round import Action, Round
from adaspec_rl.decoding.verification.lossy import LossyRule


class Lossy:
    """Decides as `controller` does, but lets `rule` accept mismatches. Its name says so."""

    def __init__(self, controller: Controller, rule: LossyRule, name: str | None = None) -> None:
        self.controller, self.rule = controller, rule
        self.name = name or f"{controller.name}, {rule}"
        self.observes = controller.observes
        self._lossy: dict[Action, Action] = {}

    def reset(self, prompt: Sequence[int] = (), seed: int = 0) -> None:
        self.controller.reset(prompt, seed)

    def decide(self, observation: np.ndarray | None) -> Action:
        exact = self.controller.decide(observation)
        if exact not in self._lossy:
            self._lossy[exact] = replace(exact, lossy=self.rule) if exact.length else exact
        return self._lossy[exact]

    def observe(self, round_: Round) -> None:
        self.controller.observe(round_)
