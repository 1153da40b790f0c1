"""Early stopping within a draft, by the estimated chance that all of it survives."""

from collections.abc import Sequence

import numpy as np

from adaspec_rl.decoding.suffix_index import SuffixIndex
from adaspec_rl.decoding.survival import Evidence, Survival
from adaspec_rl.decoding.verification import Choice


class ThresholdStop:
    """Stops a draft after the token at which its estimated survival falls under `threshold`.

    Attributes:
        chances: estimated for each token that it was asked about.
    """

    def __init__(
        self, threshold: float, survival: Survival, index: SuffixIndex, previous: int
    ) -> None:
        """`previous` is the last committed token, which `index` has seen."""
        self.threshold = threshold
        self.chances: list[float] = []
        self._survival = survival
        self._previous = previous
        self._suffix = index.suffix() if survival.needs_match else None
        self._all = 1.0  # the chance that all tokens so far are accepted

    def __call__(self, choice: Choice) -> bool:
        survival, suffix = self._survival, self._suffix
        log_prob = choice.log_prob() if survival.needs_log_prob else 0.0
        if suffix is None:
            chance = survival.one(0, 0, log_prob, 0.0, 0, False)
        else:
            token, margin = choice.weighed()
            if self.chances:  # only now is it known that the token before is of use
                suffix.append(self._previous)
            agrees = suffix.guess == token
            chance = survival.one(token, self._previous, log_prob, margin, suffix.match, agrees)
            self._previous = token
        self.chances.append(chance)
        self._all *= chance
        return self._all < self.threshold


def agreement(index: SuffixIndex, drafted: Sequence[int]) -> tuple[list[int], list[bool]]:
    """Match length before each drafted token, and whether the token is what followed there."""
    suffix = index.suffix()
    match, agrees = [], []
    for token in drafted:
        match.append(suffix.match)
        agrees.append(suffix.guess == token)
        suffix.append(token)
    return match, agrees


def chances(
    survival: Survival,
    signals: np.ndarray,
    index: SuffixIndex,
    drafted: Sequence[int],
    previous: int,
) -> np.ndarray:
    """Chances `[k]` of drafted tokens after `previous`, given their signals `[k, 4]`."""
    match, agrees = agreement(index, drafted) if survival.needs_match else ([], [])
    tokens = np.array([previous, *drafted], dtype=np.int64)
    return survival(
        Evidence(
            token=tokens[1:],
            previous=tokens[:-1],
            log_prob=signals[:, 0],
            choice_margin=signals[:, 3],
            match=np.array(match),
            agrees=np.array(agrees),
        )
    )
