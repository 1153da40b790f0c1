"""Speculative sampling."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from adaspec_rl.decoding.picks import Pick, draw, sharpened
from adaspec_rl.decoding.sampling import Sampling, sample, warp_logits
from adaspec_rl.decoding.trigrams import Candidates
from adaspec_rl.decoding.verification.acceptance import leading, row
from adaspec_rl.decoding.verification.choice import Choice, Perturbation, chosen


@dataclass
class Rejection:
    """Speculative sampling (arXiv:2211.17192, arXiv:2302.01318): keeps the target's distribution.

    Accept x ~ q with probability min(1, p(x) / q(x)). After the first rejection, sample from the
    normalised positive part of p - q; after full acceptance, from p.
    """

    sampling: Sampling
    generator: torch.Generator
    needs_log_probs = True

    def __post_init__(self) -> None:
        self._on_host = random.Random(f"picks of {self.generator.initial_seed()}")

    def propose(
        self, logits: torch.Tensor, position: int, ids: torch.Tensor | None = None
    ) -> Choice:
        log_probs = warp_logits(logits, self.sampling).log_softmax(-1)
        place = sample(log_probs.exp(), self.generator).view(1)
        return chosen(place, log_probs, log_probs, ids, normalised=True)

    def perturbation(
        self, positions: Sequence[int], ids: torch.Tensor | None = None
    ) -> Perturbation | None:
        return None  # a draw

    def pick(self, candidates: Candidates, position: int) -> Pick:
        weights = sharpened(candidates, self.sampling)
        return Pick(candidates, draw(weights, self._on_host.random()), weights, weights)

    def weigh(
        self, logits: torch.Tensor, positions: Sequence[int], ids: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        log_probs = warp_logits(logits, self.sampling).log_softmax(-1)
        return log_probs, log_probs

    def verify(
        self,
        logits: torch.Tensor,
        tokens: torch.Tensor,
        draft_log_probs: torch.Tensor | None,
        position: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        p = warp_logits(logits, self.sampling).softmax(-1)  # [k + 1, V]
        drafted = tokens[:, None]
        ratio = p[:-1].gather(1, drafted)[:, 0]  # [k]
        if draft_log_probs is not None:
            ratio = ratio / draft_log_probs.gather(1, drafted)[:, 0].exp()
        luck = torch.empty_like(ratio).uniform_(generator=self.generator)
        accepted = leading(luck < ratio)
        residual = row(p, accepted)
        if len(tokens):
            rejected = accepted.clamp_max(len(tokens) - 1)
            if draft_log_probs is None:
                q = torch.zeros_like(residual).scatter(0, row(drafted, rejected), 1.0)
            else:
                q = row(draft_log_probs, rejected).exp()
            # After full acceptance nothing is subtracted.
            residual = (residual - q * (accepted < len(tokens))).clamp_min(0)
        return accepted, sample(residual, self.generator)
