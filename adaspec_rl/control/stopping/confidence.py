"""Stopping by the drafter's own probabilities."""

from adaspec_rl.control.checks import check_between
from adaspec_rl.decoding.round import DraftedToken


class ConfidenceStop:
    """Stops after a token to which the drafter gave less than `threshold`.

    transformers' `assistant_confidence_threshold` (0.4 by default), and "max-confidence" in the
    literature. Deviates: the threshold stays as it is, where transformers moves it along the
    receiver operating characteristic if scikit-learn is installed.
    """

    needs = frozenset[str]()

    def __init__(self, threshold: float = 0.4) -> None:
        check_between("threshold", threshold, 0, 1)
        self.threshold = threshold

    def __call__(self, token: DraftedToken) -> bool:
        return token.probability < self.threshold


class CumulativeConfidenceStop:
    """Stops after a token at which the product of the draft's probabilities is under `threshold`.

    Cumulative confidence, as EAGLE-2 (arXiv:2406.16858) ranks the branches of its tree: the chance
    that all of a draft survives, if the drafter is taken at its word. Deviates: a single branch.
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
