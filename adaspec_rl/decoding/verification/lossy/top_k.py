"""A mismatch is accepted if it is among the target's `k` most probable tokens."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from adaspec_rl.decoding.verification.lossy.rule import Seen

LEAST_K, MOST_K = 2, 32


@dataclass(frozen=True, slots=True)
class TopK:
    """Top-k verification (as in arXiv:2203.16487).

    Raises:
        ValueError: `k` is not from 2 to 32; 1 is greedy decoding.
    """

    k: int = 4
    name: ClassVar[str] = "lossy.top_k"
    needs_states: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not LEAST_K <= self.k <= MOST_K:
            raise ValueError(
                f"{self.name} keeps a token among the target's k best, k from {LEAST_K} to "
                f"{MOST_K}, got {self.k}: use an exact rule to keep the best alone"
            )

    def keeps(self, seen: Seen) -> torch.Tensor:
        own = seen.own
        better = (seen.log_probs[:-1] > own[:, None]).sum(-1)
        return (better < self.k) & own.isfinite()

    def __str__(self) -> str:
        return f"{self.name} k={self.k}"
