"""Stopping by the probability of the newest token."""

from adaspec_rl.control.checks import check_between
from adaspec_rl.decoding.round import DraftedToken


class ConfidenceStop:
    """Stops after a token whose probability under the drafter is below `threshold`.

    transformers' `assistant_confidence_threshold` (0.4 by default), and "max-confidence" in the
    literature. Deviates: the threshold is fixed, where transformers moves it along the receiver
    operating characteristic if scikit-learn is installed.
    """

    needs = frozenset[str]()

    def __init__(self, threshold: float = 0.4) -> None:
        check_between("threshold", threshold, 0, 1)
        self.threshold = threshold

    def __call__(self, token: DraftedToken) -> bool:
        return token.probability < self.threshold
