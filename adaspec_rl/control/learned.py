"""A trained actor network as a controller, in NumPy: microseconds a decision, no framework."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.decoding.round import Action, Round

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


class LearnedPolicy:
    """Takes the most preferred action of an actor."""

    def __init__(
        self, actor: Actor, actions: Sequence[Action], spec: ObservationSpec, name: str = "learned"
    ) -> None:
        self.actor = actor
        self.actions = tuple(actions)
        self.observes = spec
        self.name = name
        self._seen: bytes | None = None  # the observation that `_chosen` is the answer to
        self._chosen = self.actions[0]

    def reset(self, prompt: Sequence[int] = (), seed: int = 0) -> None:
        pass

    def decide(self, observation: np.ndarray | None) -> Action:
        assert observation is not None, "a learned policy needs its observation"
        seen = observation.tobytes()  # not the array itself, which may change in place
        if seen != self._seen:
            self._seen = seen
            self._chosen = self.actions[int(self.actor(observation).argmax())]
        return self._chosen

    def observe(self, round_: Round) -> None:
        pass
