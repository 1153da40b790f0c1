"""Drafting until a rule says stop."""

from collections.abc import Sequence

import numpy as np

from adaspec_rl.control.checks import check_between
from adaspec_rl.decoding.round import Action, Round, StopRule


class Ruled:
    """Drafts up to `max_length` tokens in every round, and stops early where `rule` says so."""

    observes = None

    def __init__(self, name: str, rule: StopRule, max_length: int, drafter: int = 0) -> None:
        check_between("max_length", max_length, 1)
        self.name = name
        self.action = Action(max_length, drafter, rule=rule)

    def reset(self, prompt: Sequence[int] = (), seed: int = 0) -> None:
        pass

    def decide(self, observation: np.ndarray | None) -> Action:
        return self.action

    def observe(self, round_: Round) -> None:
        pass
