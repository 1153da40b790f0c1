"""The protocol of lossy rules, which say what mismatches with the target's pick are accepted."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch


@dataclass(frozen=True, slots=True)
class States:
    """Both models' hidden states at the tokens of a draft."""

    target: torch.Tensor  # [k, hidden], normalised, from which the target's logits are computed
    draft: torch.Tensor  # [k, hidden], the same for the drafter
    draft_log_probs: torch.Tensor  # [k, V], the drafter's own distribution; -inf: not drafted


@dataclass(frozen=True, slots=True)
class Seen:
    """What a rule sees about a draft."""

    log_probs: torch.Tensor  # [k + 1, V] the target's, normalised; at temperature 0 untempered
    tokens: torch.Tensor  # [k], drafted
    picks: torch.Tensor  # [k + 1], the target's own
    states: States | None = None

    @property
    def own(self) -> torch.Tensor:
        """The log-probabilities of the drafted tokens under the target, `[k]`."""
        return self.log_probs[:-1].gather(1, self.tokens[:, None])[:, 0]

    @property
    def agrees(self) -> torch.Tensor:
        """Which drafted tokens are the target's own picks, `[k]`."""
        return self.tokens == self.picks[:-1]

    @property
    def entropies(self) -> torch.Tensor:
        """The target's entropy at each drafted token, in nats, `[k]`."""
        return torch.special.entr(self.log_probs[:-1].exp()).sum(-1)


class LossyRule(Protocol):
    """The settings of one rule, and its decision. It changes the text: opt-in, and labelled."""

    name: ClassVar[str]  # its name in `env.verification`
    needs_states: ClassVar[bool]  # whether `keeps` reads `Seen.states`

    def keeps(self, seen: Seen) -> torch.Tensor:
        """Which mismatches are accepted, boolean `[k]`; values for agreeing tokens are ignored."""
        ...

    def __str__(self) -> str:
        """The rule's name and settings, for tables."""
        ...
