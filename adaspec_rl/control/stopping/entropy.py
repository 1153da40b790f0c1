"""Stopping by the entropy of the drafter."""

import math

from adaspec_rl.control.checks import check_between
from adaspec_rl.decoding.round import DraftedToken


class SvipStop:
    """Stops after a token at which the square root of the entropy (nats) exceeds `threshold`.

    SVIP (arXiv:2411.18462). Its published code compares sqrt(0.15 entropy) with 0.3, which is a
    `threshold` of 0.77 here. Deviates: the entropy is that of the drafter's untempered logits.
    """

    needs = frozenset({"entropy"})

    def __init__(self, threshold: float = 0.77) -> None:
        check_between("threshold", threshold, 0)
        self._entropy = threshold**2

    def __call__(self, token: DraftedToken) -> bool:
        return token.entropy > self._entropy


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
