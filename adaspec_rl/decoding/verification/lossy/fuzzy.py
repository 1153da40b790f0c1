"""A drafted token is accepted with probability min(1, T p / q)."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from adaspec_rl.decoding.sampling import sample, warp_logits
from adaspec_rl.decoding.verification.acceptance import leading, row
from adaspec_rl.decoding.verification.lossy.rule import Seen
from adaspec_rl.decoding.verification.rejection import Rejection

MOST_LENIENCE = 4.0


@dataclass(frozen=True, slots=True)
class Fuzzy:
    """Lenient speculative sampling (arXiv:2211.17192, A.5); `lenience` T is 1 / l there.

    No token becomes more than T times as likely as under the target. At temperature 0 a token is
    accepted if T p(x) >= max p, with p untempered. T = 1 is exact.

    Raises:
        ValueError: `lenience` is not from 1 to 4.
    """

    lenience: float = 2.0
    name: ClassVar[str] = "lossy.fuzzy"
    needs_states: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 1 <= self.lenience <= MOST_LENIENCE:
            raise ValueError(
                f"{self.name} accepts with probability min(1, T p / q), T from 1 to "
                f"{MOST_LENIENCE:g}, got {self.lenience}"
            )

    def keeps(self, seen: Seen) -> torch.Tensor:
        """Which mismatches are accepted at temperature 0, where no token was drawn."""
        return seen.own + math.log(self.lenience) >= seen.log_probs[:-1].amax(-1)

    def __str__(self) -> str:
        return f"{self.name} T={self.lenience:g}"


@dataclass
class LenientRejection(Rejection):
    """Accept x ~ q with probability min(1, T p(x) / q(x)), else sample from the positive part of
    T p - q.

    Attributes:
        distances: `[k + 1]` after `verify`: at each position, the total variation between the
            target's distribution and that of the token emitted by this rule.
    """

    rule: Fuzzy = field(kw_only=True)
    distances: torch.Tensor = field(init=False)

    def verify(
        self,
        logits: torch.Tensor,
        tokens: torch.Tensor,
        draft_log_probs: torch.Tensor | None,
        position: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        p = warp_logits(logits, self.sampling).softmax(-1)  # [k + 1, V]
        if draft_log_probs is None:
            q = torch.zeros_like(p[:-1]).scatter_(1, tokens[:, None], 1.0)
        else:
            q = draft_log_probs.exp()  # [k, V]
        lenient = self.rule.lenience * p[:-1]
        residual = (lenient - q).clamp_min(0)
        drafted = tokens[:, None]
        ratio = (lenient.gather(1, drafted) / q.gather(1, drafted))[:, 0]
        luck = torch.empty_like(ratio).uniform_(generator=self.generator)
        accepted = leading(luck < ratio)
        self.distances = _distances(p, torch.minimum(q, lenient), residual)
        after = torch.cat([residual, p[-1:]])  # after full acceptance nothing is subtracted
        return accepted, sample(row(after, accepted), self.generator)


def _distances(p: torch.Tensor, kept: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """Total variation `[k + 1]` between `p` and the emitted token: `kept`, else from `residual`."""
    rest = 1 - kept.sum(-1, keepdim=True)
    emitted = kept + rest * residual / residual.sum(-1, keepdim=True).clamp_min(1e-30)
    found = (emitted - p[:-1]).abs().sum(-1) / 2
    return torch.cat([found, found.new_zeros(1)])
