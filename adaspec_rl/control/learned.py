"""A trained actor network as a controller: microseconds a decision, no framework."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adaspec_rl.control.compiled_actor import CompiledChoice
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.decoding.round import Action, Round
from adaspec_rl.engine.cpu.build import loaded

LARGEST = 1e18  # the largest weight; products of such numbers are still finite in float32


@dataclass(frozen=True, slots=True)
class Actor:
    """A tanh multilayer perceptron from observations to action preferences."""

    weights: tuple[np.ndarray, ...]  # [inputs, outputs] float32, one a layer
    biases: tuple[np.ndarray, ...]  # [outputs] float32

    @property
    def finite(self) -> bool:
        """Whether every observation gives finite preferences."""
        arrays = (*self.weights, *self.biases)
        return all(bool((np.abs(array) <= LARGEST).all()) for array in arrays)

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """Preferences `[..., actions]` of observations `[..., features]`."""
        hidden = observation
        for weight, bias in zip(self.weights[:-1], self.biases[:-1]):
            hidden = np.tanh(hidden @ weight + bias)
        return hidden @ self.weights[-1] + self.biases[-1]

    def chooser(self) -> Callable[[np.ndarray], int]:
        """A function from one observation `[features]` to the number of the preferred action.

        It is compiled if models of this process run compiled.
        """
        compiled = loaded()
        if compiled is None:
            return lambda observation: int(self(observation).argmax())
        return CompiledChoice(compiled, self.weights, self.biases)


class LearnedPolicy:
    """Takes the most preferred action of an actor."""

    def __init__(
        self, actor: Actor, actions: Sequence[Action], spec: ObservationSpec, name: str = "learned"
    ) -> None:
        self.actor = actor
        self.actions = tuple(actions)
        self.observes = spec
        self.name = name
        self._choose: Callable[[np.ndarray], int] | None = None  # made when it is needed

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_choose": None}

    def reset(self, prompt: Sequence[int] = (), seed: int = 0) -> None:
        pass

    def decide(self, observation: np.ndarray | None) -> Action:
        assert observation is not None, "a learned policy needs its observation"
        if self._choose is None:
            self._choose = self.actor.chooser()
        return self.actions[self._choose(observation)]

    def observe(self, round_: Round) -> None:
        pass
