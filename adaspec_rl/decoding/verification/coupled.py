"""Verification where drafter and target use the same noise."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from adaspec_rl.decoding.noise import GumbelNoise
from adaspec_rl.decoding.picks import Pick, sharpened
from adaspec_rl.decoding.sampling import Sampling, best, warp_logits
from adaspec_rl.decoding.trigrams import Candidates
from adaspec_rl.decoding.verification.acceptance import agreement, chosen_agreement
from adaspec_rl.decoding.verification.choice import Choice, Perturbation, chosen


@dataclass
class Coupled:
    """Drafter and target pick with the same Gumbel noise; a draft is accepted where they agree.

    The output depends on (prompt, seed) alone, whatever the drafter (arXiv:2408.07978).
    """

    sampling: Sampling
    noise: GumbelNoise
    needs_log_probs = False

    def propose(
        self, logits: torch.Tensor, position: int, ids: torch.Tensor | None = None
    ) -> Choice:
        log_probs, scores = self.weigh(logits[None], range(position, position + 1), ids)
        return chosen(best(scores[0]), log_probs[0], scores[0], ids, normalised=False)

    def perturbation(
        self, positions: Sequence[int], ids: torch.Tensor | None = None
    ) -> Perturbation | None:
        if self.sampling.truncates:
            return None
        count = self.noise.vocab_size if ids is None else len(ids)
        noise = torch.zeros(len(positions), count, device=self.noise.device)
        self.noise.add_to(noise, positions, ids)
        return Perturbation(self.sampling.divisor, noise)

    def pick(self, candidates: Candidates, position: int) -> Pick:
        weights = sharpened(candidates, self.sampling)
        scores = weights + self.noise.of(candidates.tokens[: len(weights)], position)
        return Pick(candidates, int(scores.argmax()), weights, scores)

    def weigh(
        self, logits: torch.Tensor, positions: Sequence[int], ids: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        log_probs = warp_logits(logits, self.sampling)
        scores = log_probs.clone()
        self.noise.add_to(scores, positions, ids)
        return log_probs, scores

    def verify(
        self,
        logits: torch.Tensor,
        tokens: torch.Tensor,
        draft_log_probs: torch.Tensor | None,
        position: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        positions = range(position, position + len(logits))
        if not self.sampling.truncates:
            noise = self.noise.rows(positions)
            return chosen_agreement(logits, tokens, self.sampling.divisor, noise)
        _, scores = self.weigh(logits, positions)
        return agreement(best(scores)[:, 0], tokens)
