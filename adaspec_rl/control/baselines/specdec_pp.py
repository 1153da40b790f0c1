"""Stopping by the predicted chance of a rejection."""

from collections.abc import Sequence

import numpy as np

from adaspec_rl.control.checks import check_between
from adaspec_rl.decoding.round import Action, Round


class SpecDecPlusPlus:
    """Stops as soon as some drafted token is rejected with a chance of more than `threshold`.

    SpecDec++ (arXiv:2405.19715), whose paper uses 0.7. Deviates: the chance comes from the
    session's survival estimate, not from a network on the drafter's hidden state. So this is
    SpecDec++'s rule with this project's survival head (or, without one, with the product of the
    drafter's probabilities).
    """

    name = "specdec_pp"
    observes = None

    def __init__(self, max_length: int, drafter: int = 0, threshold: float = 0.7) -> None:
        check_between("max_length", max_length, 1)
        check_between("threshold", threshold, 0, 1)
        # 1 - survival > threshold
        self.action = Action(max_length, drafter, threshold=1 - threshold)

    def reset(self, prompt: Sequence[int] = (), seed: int = 0) -> None:
        pass

    def decide(self, observation: np.ndarray | None) -> Action:
        return self.action

    def observe(self, round_: Round) -> None:
        pass
