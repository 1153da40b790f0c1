"""AdaEDL's stopping rule: a bound on acceptance from the drafter's entropy."""

import math

from adaspec_rl.control.checks import check_between
from adaspec_rl.decoding.round import DraftedToken


class EntropyBoundStop:
    """Stops where AdaEDL's bound on acceptance, 1 - sqrt(gamma entropy), is under `threshold`."""

    needs = frozenset({"entropy"})

    def __init__(self, threshold: float = 0.4, gamma: float = 0.2) -> None:
        check_between("threshold", threshold, 0, 1)
        check_between("gamma", gamma, 0)
        self.threshold = threshold
        self.gamma = gamma

    def __call__(self, token: DraftedToken) -> bool:
        return 1 - math.sqrt(self.gamma * token.entropy) < self.threshold
