"""Early stopping within a draft, by the estimated chance that all of it survives."""

import math
from collections.abc import Sequence

import numpy as np
import torch

from adaspec_rl.decoding.suffix_index import SuffixIndex
from adaspec_rl.decoding.survival import Evidence, Survival, SurvivalHead
from adaspec_rl.decoding.verification import Choice


def agreement(
    index: SuffixIndex, drafted: Sequence[int], first: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Match length before each drafted token from `first` on, and whether it is what followed."""
    guesses = [index.predict(drafted[:depth]) for depth in range(first, len(drafted))]
    match = np.array([length for length, _ in guesses], dtype=np.float32)
    agrees = [guess == token for (_, guess), token in zip(guesses, drafted[first:])]
    return match, np.array(agrees, dtype=np.float32)


def evidence_of(
    signals: np.ndarray,
    match: np.ndarray,
    agrees: np.ndarray,
    hidden: np.ndarray | None,
) -> Evidence:
    """From signals `[N, 4]` and what `agreement` found."""
    return Evidence(signals[:, 0], signals[:, 3], match, agrees, hidden)


class ThresholdStop:
    """Stops a draft after the token at which its estimated survival falls under `threshold`.

    Attributes:
        chances: estimated for each token that it was asked about.
    """

    def __init__(self, threshold: float, survival: Survival, index: SuffixIndex) -> None:
        self.threshold = threshold
        self.chances: list[float] = []
        self._survival = survival
        self._index = index
        self._drafted: list[int] = []
        self._all = 1.0  # the chance that all tokens so far are accepted

    def __call__(self, logits: torch.Tensor, choice: Choice, hidden: torch.Tensor | None) -> bool:
        if isinstance(self._survival, SurvivalHead):
            token, margin = choice.weighed()
            match, guess = self._index.predict(self._drafted)
            self._drafted.append(token)
            chance = self._survival.one(margin, match, guess == token, _on_host(hidden))
        else:
            chance = math.exp(float(logits.log_softmax(-1)[choice.token]))
        self.chances.append(chance)
        self._all *= chance
        return self._all < self.threshold


def _on_host(hidden: torch.Tensor | None) -> np.ndarray | None:
    if hidden is None:
        return None
    if hidden.device.type == "cpu" and hidden.dtype == torch.float32:
        return hidden.numpy()  # the shortest way
    return hidden.float().cpu().numpy()


def chances(
    survival: Survival,
    signals: np.ndarray,
    index: SuffixIndex,
    drafted: Sequence[int],
    first: int,
    hidden: torch.Tensor | None,
) -> np.ndarray:
    """Chances of the drafted tokens from `first` on, given their signals and hidden states."""
    count = len(drafted) - first
    if not survival.needs_evidence:
        nothing = np.zeros(count, dtype=np.float32)
        return survival(evidence_of(signals, nothing, nothing, None))
    match, agrees = agreement(index, drafted, first)
    states = _on_host(hidden)
    if states is not None:
        states = states.reshape(count, -1)
    return survival(evidence_of(signals, match, agrees, states))
