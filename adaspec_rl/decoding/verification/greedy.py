"""The rule at temperature 0."""

from collections.abc import Sequence

import torch

from adaspec_rl.decoding.picks import Pick
from adaspec_rl.decoding.sampling import best
from adaspec_rl.decoding.trigrams import Candidates
from adaspec_rl.decoding.verification.acceptance import chosen_agreement
from adaspec_rl.decoding.verification.choice import Choice, Perturbation, chosen


class Greedy:
    """Temperature 0: a drafted token is accepted iff it is the target's most probable token."""

    needs_log_probs = False

    def propose(
        self, logits: torch.Tensor, position: int, ids: torch.Tensor | None = None
    ) -> Choice:
        return chosen(best(logits), logits, logits, ids, normalised=False)

    def perturbation(
        self, positions: Sequence[int], ids: torch.Tensor | None = None
    ) -> Perturbation | None:
        return Perturbation()

    def pick(self, candidates: Candidates, position: int) -> Pick:
        return Pick(candidates, 0, candidates.log_probs, candidates.log_probs)

    def weigh(
        self, logits: torch.Tensor, positions: Sequence[int], ids: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return logits, logits

    def verify(
        self,
        logits: torch.Tensor,
        tokens: torch.Tensor,
        draft_log_probs: torch.Tensor | None,
        position: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return chosen_agreement(logits, tokens)
