"""What every rule does that decides how many drafted tokens stand, and what follows them.

A rule sees the target's logits `[k + 1, V]` at the drafted positions and the one after, and keeps
a prefix of the draft. All work stays on the device; the results are tensors.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch

from adaspec_rl.decoding.picks import Pick
from adaspec_rl.decoding.trigrams import Candidates
from adaspec_rl.decoding.verification.choice import Choice, Perturbation


class Verification(Protocol):
    """One rule, holding the random state of one sequence.

    A drafter may know `C` tokens only, whose `ids` `[C]` are then said; None: all of them.
    """

    @property
    def needs_log_probs(self) -> bool:
        """Whether `verify` looks at what drafted tokens were drawn from."""
        ...

    def propose(
        self, logits: torch.Tensor, position: int, ids: torch.Tensor | None = None
    ) -> Choice:
        """Choose a drafter's token for `position` from its logits `[C]`."""
        ...

    def perturbation(
        self, positions: Sequence[int], ids: torch.Tensor | None = None
    ) -> Perturbation | None:
        """How `propose` chooses at `positions`, if it is by the largest perturbed logit."""
        ...

    def pick(self, candidates: Candidates, position: int) -> Pick:
        """The same from a short list."""
        ...

    def weigh(
        self, logits: torch.Tensor, positions: Sequence[int], ids: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and scores `[k, C]` at `k` positions, from logits `[k, C]`.

        Greedy and coupled choices are the scores' argmax; a sampled one is a draw from the
        log-probabilities, which are normalised only there: else they are so up to a constant.
        Greedily, both are the logits themselves.
        """
        ...

    def verify(
        self,
        logits: torch.Tensor,
        tokens: torch.Tensor,
        draft_log_probs: torch.Tensor | None,
        position: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`(accepted, next token)`, scalars, for the draft `tokens` `[k]` from `position` on.

        `draft_log_probs` `[k, V]` are the drafter's; None is a point mass on each drafted token.
        """
        ...


@runtime_checkable
class Walks(Protocol):
    """A rule that goes through token trees in its own way."""

    def walk(
        self, logits: torch.Tensor, children: Sequence[Mapping[int, int]], position: int
    ) -> tuple[list[int], int]:
        """The nodes of the accepted path, and the token after it; see `verify_tree`.

        `children` are by node and token, the root's last.
        """
        ...
