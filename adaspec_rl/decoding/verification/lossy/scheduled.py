"""A lossy rule with a separate lenience for each drafted token."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from adaspec_rl.decoding.verification.lossy.rule import Seen


@dataclass(eq=False, slots=True)
class Scheduled:
    """A drafted token is accepted if T p(x) >= max p; its T was chosen while it was drafted.

    For controllers that decide on drafting and lenience together (`control.joint`). A token without
    a T must be the target's most probable one.
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
