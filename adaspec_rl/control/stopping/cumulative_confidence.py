"""Stopping by the probability of the whole draft."""

from adaspec_rl.control.checks import check_between
from adaspec_rl.decoding.round import DraftedToken


class CumulativeConfidenceStop:
    """Stops after a token at which the product of the draft's probabilities is under `threshold`.

    Cumulative confidence, by which EAGLE-2 (arXiv:2406.16858) ranks the branches of its tree: the
    chance that all of a draft survives, according to the drafter. Deviates: a single branch.
    """

    needs = frozenset[str]()

    def __init__(self, threshold: float = 0.2) -> None:
        check_between("threshold", threshold, 0, 1)
        self.threshold = threshold
        self._product = 1.0

    def __call__(self, token: DraftedToken) -> bool:
        before = 1.0 if token.depth == 1 else self._product
        self._product = before * token.probability
        return self._product < self.threshold
