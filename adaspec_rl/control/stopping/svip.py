"""SVIP: stopping by the drafter's entropy."""

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
