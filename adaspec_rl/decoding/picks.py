"""Tokens that a drafter picks from short lists, on the host."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.trigrams import Candidates

LARGEST_MARGIN = 100.0  # where no other token has a chance: finite, and beyond what estimates read


@dataclass(frozen=True, slots=True)
class Pick:
    """A token and what it was picked from: the first `C` of `candidates`."""

    candidates: Candidates
    index: int  # among them
    weights: np.ndarray  # [C] log-probabilities up to a constant; other tokens had no chance
    scores: np.ndarray  # [C] float32

    @property
    def token(self) -> int:
        return int(self.candidates.tokens[self.index])

    @property
    def entropy(self) -> float:
        """Of the drafter's own distribution, in nats."""
        return self.candidates.entropy

    def weighed(self) -> tuple[int, float]:
        """The token, and how far its score is above every other's."""
        return self.token, _lead(self.scores, self.index)

    def log_prob(self) -> float:
        """The token's log-probability in the distribution it was picked from, in nats."""
        return float(self.weights[self.index]) - _log_total(self.weights)

    def confidence(self) -> float:
        """The token's log-probability under the scores, noise included."""
        return float(self.scores[self.index]) - _log_total(self.scores)

    def signals(self, noise: bool = True) -> tuple[float, float, float, float]:
        """In the order of `signals.SIGNALS`; `noise=False`: with the choice margin before noise."""
        scores = self.scores if noise else self.weights
        return (
            self.log_prob(),
            self.entropy,
            _lead(self.candidates.log_probs, 0),
            _lead(scores, self.index),
        )


class PickSignals(Protocol):
    """A pick whose signals are known."""

    def signals(self, noise: bool = True) -> tuple[float, float, float, float]: ...


def signals_of(picks: Sequence[PickSignals], noise: bool = True) -> np.ndarray:
    """The signals of each pick, `[k, 4]` float32."""
    return np.array([pick.signals(noise) for pick in picks], dtype=np.float32)


def sharpened(candidates: Candidates, sampling: Sampling) -> np.ndarray:
    """Log-probabilities up to a constant after temperature, top-k and top-p, `[C]` or fewer."""
    weights = candidates.log_probs / sampling.divisor
    if sampling.top_k:
        weights = weights[: sampling.top_k]
    if sampling.top_p < 1:
        mass = np.exp(weights - weights[0]).cumsum(dtype=np.float64)
        weights = weights[: 1 + int((mass < sampling.top_p * mass[-1]).sum())]
    return weights


def draw(weights: np.ndarray, luck: float) -> int:
    """Draw an index with probability proportional to exp(weight); `luck` is in [0, 1)."""
    mass = np.exp(weights - weights[0]).cumsum(dtype=np.float64)
    return min(int(mass.searchsorted(luck * mass[-1], side="right")), len(mass) - 1)


def spread(picks: Sequence[Pick], vocab_size: int, device: torch.device) -> torch.Tensor:
    """The log-probabilities that each token was picked from, `[k, V]`."""
    log_probs = np.full((len(picks), vocab_size), -np.inf, dtype=np.float32)
    for row, pick in zip(log_probs, picks):
        row[pick.candidates.tokens[: len(pick.weights)]] = pick.weights - _log_total(pick.weights)
    return torch.from_numpy(log_probs).to(device, non_blocking=True)


def _log_total(weights: np.ndarray) -> float:
    largest = float(weights.max())
    return largest + math.log(np.exp(weights - largest).sum())


def _lead(scores: np.ndarray, index: int) -> float:
    """How far the score at `index` is above every other."""
    others = [score for n, score in enumerate(scores.tolist()) if n != index]
    return min(float(scores[index]) - max(others), LARGEST_MARGIN) if others else LARGEST_MARGIN
