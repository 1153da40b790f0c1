"""What a lossy rule is: it says which mismatches with the target's own pick stand all the same."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch


@dataclass(frozen=True, slots=True)
class States:
    """What both models thought where the tokens of a draft stand."""

    target: torch.Tensor  # [k, hidden], normalised, behind the target's logits
    draft: torch.Tensor  # [k, hidden], likewise the drafter's
    draft_log_probs: torch.Tensor  # [k, V], the drafter's own distribution; -inf: not drafted


@dataclass(frozen=True, slots=True)
class Seen:
    """What a rule sees of a draft."""

    log_probs: torch.Tensor  # [k + 1, V] the target's, normalised; at temperature 0 untempered
    tokens: torch.Tensor  # [k], drafted
    picks: torch.Tensor  # [k + 1], the target's own
    states: States | None = None

    @property
    def own(self) -> torch.Tensor:
        """The drafted tokens' log-probabilities by the target, `[k]`."""
        return self.log_probs[:-1].gather(1, self.tokens[:, None])[:, 0]

    @property
    def agrees(self) -> torch.Tensor:
        """Which drafted tokens are the target's own picks, `[k]`."""
        return self.tokens == self.picks[:-1]

    @property
    def entropies(self) -> torch.Tensor:
        """Of the target at each drafted token, nats, `[k]`."""
        return torch.special.entr(self.log_probs[:-1].exp()).sum(-1)


class LossyRule(Protocol):
    """Settings of one rule, and its decision. It changes the text: opt-in, and labelled so."""

    name: ClassVar[str]  # as `env.verification` has it
    needs_states: ClassVar[bool]  # whether `keeps` reads `Seen.states`

    def keeps(self, seen: Seen) -> torch.Tensor:
        """Which mismatches stand, boolean `[k]`; what it says of agreeing tokens is not read."""
        ...

    def __str__(self) -> str:
        """The name with its settings, for tables."""
        ...
