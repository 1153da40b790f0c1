"""Each drafted token has a leniency of its own."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from adaspec_rl.decoding.verification.lossy.rule import Seen


@dataclass(eq=False, slots=True)
class Scheduled:
    """A drafted token stands if T p(x) >= max p, T chosen for it while it was drafted.

    For controllers that decide both (`control.joint`); tokens without a T have to be the best.
    """

    leniences: list[float] = field(default_factory=list)
    name: ClassVar[str] = "lossy.joint"
    needs_states: ClassVar[bool] = False

    def keeps(self, seen: Seen) -> torch.Tensor:
        count = len(seen.tokens)
        chosen = [*map(math.log, self.leniences[:count])]
        chosen += [0.0] * (count - len(chosen))
        given = torch.tensor(chosen, device=seen.tokens.device)
        return seen.own + given >= seen.log_probs[:-1].amax(-1)

    def __str__(self) -> str:
        return self.name
