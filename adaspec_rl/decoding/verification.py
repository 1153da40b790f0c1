"""The rules that decide how many drafted tokens stand, and what follows them.

Every rule sees the target's logits `[k + 1, V]` at the drafted positions and the one after, and
keeps a prefix of the draft. All work stays on the device; the results are tensors.
"""

from dataclasses import dataclass
from typing import Protocol

import torch

from adaspec_rl.decoding.sampling import GumbelNoise, Sampling, logits_to_log_probs, sample

RULES = ("greedy", "rejection", "coupled")


@dataclass(frozen=True, slots=True)
class Choice:
    """A drafter's token and what it was chosen from."""

    token: torch.Tensor  # scalar
    log_probs: torch.Tensor  # [V], what `verify` needs
    scores: torch.Tensor  # [V]

    best: torch.Tensor | None = None  # [2], the two best scores, if they were asked for

    def weighed(self) -> tuple[int, float]:
        """The token's id, and how far the best score is above the second best: waits for both."""
        assert self.best is not None, "the choice was made without weighing it"
        if self.best.device.type == "cpu":
            first, second = self.best.tolist()
            return int(self.token), first - second
        token, first, second = torch.cat([self.token.view(1), self.best.double()]).tolist()
        return int(token), first - second


def choose(log_probs: torch.Tensor, scores: torch.Tensor, weigh: bool) -> Choice:
    """The token of the best score in `scores` `[V]`."""
    if not weigh:
        return Choice(scores.argmax(-1), log_probs, scores)
    best = scores.topk(2)  # hardly more than the argmax
    return Choice(best.indices[0], log_probs, scores, best.values)


class Verification(Protocol):
    """One rule, holding the random state of one sequence."""

    def propose(self, logits: torch.Tensor, position: int, weigh: bool = False) -> Choice:
        """Choose a drafter's token for `position` from its logits `[V]`; `weigh` keeps `best`."""
        ...

    def scores(self, logits: torch.Tensor, position: int) -> torch.Tensor:
        """What tokens are chosen from at `position`, `position + 1`, …: `[k, V]` from logits.

        Greedy and coupled choices are its argmax; a sampled one is a draw from its softmax.
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


def row(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`values[index]` for a scalar tensor `index`, without a host synchronisation."""
    return values.index_select(0, index.view(1))[0]


def leading(kept: torch.Tensor) -> torch.Tensor:
    """How many leading entries of a boolean `[k]` hold."""
    return kept.long().cumprod(0).sum()


class Greedy:
    """Temperature 0: a drafted token stands iff it is the target's most probable one."""

    def propose(self, logits: torch.Tensor, position: int, weigh: bool = False) -> Choice:
        return choose(logits, logits, weigh)

    def scores(self, logits: torch.Tensor, position: int) -> torch.Tensor:
        return logits

    def verify(
        self,
        logits: torch.Tensor,
        tokens: torch.Tensor,
        draft_log_probs: torch.Tensor | None,
        position: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        picks = logits.argmax(-1)  # [k + 1]
        accepted = leading(picks[:-1] == tokens)
        return accepted, row(picks, accepted)


@dataclass
class Rejection:
    """Speculative sampling (arXiv:2211.17192, arXiv:2302.01318): the target's distribution.

    Accept x ~ q with probability min(1, p(x) / q(x)); at the first rejection sample from the
    normalised positive part of p - q, after full acceptance from p.
    """

    sampling: Sampling
    generator: torch.Generator

    def propose(self, logits: torch.Tensor, position: int, weigh: bool = False) -> Choice:
        log_probs = logits_to_log_probs(logits, self.sampling)
        best = log_probs.topk(2).values if weigh else None
        return Choice(sample(log_probs.exp(), self.generator), log_probs, log_probs, best)

    def scores(self, logits: torch.Tensor, position: int) -> torch.Tensor:
        return logits_to_log_probs(logits, self.sampling)

    def verify(
        self,
        logits: torch.Tensor,
        tokens: torch.Tensor,
        draft_log_probs: torch.Tensor | None,
        position: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        p = logits_to_log_probs(logits, self.sampling).exp()  # [k + 1, V]
        q = torch.zeros_like(p)  # the last row stays 0: after full acceptance p - q is p
        if draft_log_probs is None:
            q[:-1].scatter_(1, tokens[:, None], 1.0)
        else:
            q[:-1] = draft_log_probs.exp()
        drafted = tokens[:, None]
        ratio = (p[:-1].gather(1, drafted) / q[:-1].gather(1, drafted))[:, 0]  # [k]
        luck = torch.empty_like(ratio).uniform_(generator=self.generator)
        accepted = leading(luck < ratio)
        residual = row(p - q, accepted).clamp_min(0)
        return accepted, sample(residual, self.generator)


@dataclass
class Coupled:
    """Drafter and target pick with the same Gumbel noise; a drafted token stands iff they agree.

    The output is a function of (prompt, seed) alone, whatever drafts (arXiv:2408.07978).
    """

    sampling: Sampling
    noise: GumbelNoise

    def propose(self, logits: torch.Tensor, position: int, weigh: bool = False) -> Choice:
        log_probs = logits_to_log_probs(logits, self.sampling)
        return choose(log_probs, log_probs + self.noise.at(position)[0], weigh)

    def scores(self, logits: torch.Tensor, position: int) -> torch.Tensor:
        return logits_to_log_probs(logits, self.sampling) + self.noise.at(position, len(logits))

    def verify(
        self,
        logits: torch.Tensor,
        tokens: torch.Tensor,
        draft_log_probs: torch.Tensor | None,
        position: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        picks = self.scores(logits, position).argmax(-1)  # [k + 1]
        accepted = leading(picks[:-1] == tokens)
        return accepted, row(picks, accepted)


def new_verification(
    rule: str, sampling: Sampling, seed: int, vocab_size: int, device: torch.device
) -> Verification:
    """The rule named `greedy`, `rejection` or `coupled`; temperature 0 is always greedy."""
    if rule not in RULES:
        raise ValueError(f"unknown verification {rule!r}: expected one of {', '.join(RULES)}")
    if sampling.temperature == 0:
        return Greedy()
    if rule == "greedy":
        raise ValueError(
            f"verification 'greedy' needs temperature 0, got {sampling.temperature}: "
            "use 'rejection' or 'coupled'"
        )
    if rule == "rejection":
        generator = torch.Generator(device).manual_seed(seed)
        return Rejection(sampling, generator)
    return Coupled(sampling, GumbelNoise(seed, vocab_size, device))
