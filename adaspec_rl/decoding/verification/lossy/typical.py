"""A mismatch is accepted if it is typical of what the target would say."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from adaspec_rl.decoding.verification.lossy.rule import Seen


@dataclass(frozen=True, slots=True)
class Typical:
    """Medusa's typical acceptance (arXiv:2401.10774): p(x) > min(epsilon, delta * exp(-H(p))).

    The defaults are Medusa's. The token after the accepted draft is the target's own pick.

    Raises:
        ValueError: `epsilon` or `delta` is not above 0 and at most 1.
    """

    epsilon: float = 0.09  # a token of more than this probability is always accepted
    delta: float = 0.3  # how much less probable the token may be than is typical there
    name: ClassVar[str] = "lossy.typical"
    needs_states: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for key in ("epsilon", "delta"):
            value = getattr(self, key)
            if not 0 < value <= 1:
                raise ValueError(f"{self.name} needs {key} above 0 and at most 1, got {value}")

    def keeps(self, seen: Seen) -> torch.Tensor:
        typical = math.log(self.delta) - seen.entropies
        return seen.own > typical.clamp_max(math.log(self.epsilon))

    def __str__(self) -> str:
        return f"{self.name} epsilon={self.epsilon:g} delta={self.delta:g}"
