"""A mismatch is accepted if the target then continues as the draft does."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from adaspec_rl.decoding.verification.lossy.rule import Seen


@dataclass(frozen=True, slots=True)
class Tolerance:
    """FLy's deferred window (arXiv:2511.22972): a mismatch waits for the next drafted tokens.

    It is accepted if the `window` drafted tokens after it all exist and are all the target's own
    picks given the mismatch, and if the target was unsure at the mismatch, with an entropy of at
    least `entropy` (FLy's gate; 0 = none). Deviates: the entropy is in nats, not a share of the
    largest.

    Raises:
        ValueError: `window` is below 1, or `entropy` below 0.
    """

    window: int = 4
    entropy: float = 0.0
    name: ClassVar[str] = "lossy.tolerance"
    needs_states: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"{self.name} needs a window of at least 1 token, got {self.window}")
        if not self.entropy >= 0:
            raise ValueError(f"{self.name} needs an entropy of at least 0, got {self.entropy}")

    def keeps(self, seen: Seen) -> torch.Tensor:
        agrees = seen.agrees
        kept = torch.zeros_like(agrees)
        follow = agrees[1:]  # whether each token's successor is accepted
        if len(follow) >= self.window:
            windows = follow.unfold(0, self.window, 1).all(-1)
            kept[: len(windows)] = windows
        return kept & (seen.entropies >= self.entropy) if self.entropy else kept

    def __str__(self) -> str:
        gate = f" entropy={self.entropy:g}" if self.entropy else ""
        return f"{self.name} window={self.window}{gate}"
