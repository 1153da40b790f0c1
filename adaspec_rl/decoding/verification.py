"""The rules that decide how many drafted tokens stand, and what follows them.

Every rule sees the target's logits `[k + 1, V]` at the drafted positions and the one after, and
keeps a prefix of the draft. All work stays on the device; the results are tensors.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from adaspec_rl.decoding.noise import GumbelNoise
from adaspec_rl.decoding.picks import LARGEST_MARGIN, Pick, draw, sharpened
from adaspec_rl.decoding.sampling import Sampling, sample, warp_logits
from adaspec_rl.decoding.trigrams import Candidates

RULES = ("greedy", "rejection", "coupled")


@dataclass(frozen=True, slots=True)
class Choice:
    """A drafter's token and what it was chosen from: all of the vocabulary, or `C` tokens."""

    token: torch.Tensor  # [1], its id
    log_probs: torch.Tensor  # [C], what `verify` needs
    scores: torch.Tensor  # [C]
    normalised: bool = True  # whether `log_probs` sum to 1; else they are up to a constant
    among: torch.Tensor | None = None  # [1], its place among the `C`; None: its id

    @property
    def place(self) -> torch.Tensor:
        """The token's place among those that it was chosen from, `[1]`."""
        return self.token if self.among is None else self.among

    def weighed(self) -> tuple[int, float]:
        """The token's id, and how far its score is above every other's; on the CPU only."""
        place, scores = int(self.place.item()), self.scores.numpy()
        own = scores.item(place)
        scores[place] = -math.inf  # quicker than a copy without it
        second = scores.item(scores.argmax())  # `best` has just called it: quicker than max
        scores[place] = own
        token = place if self.among is None else int(self.token.item())
        return token, min(own - second, LARGEST_MARGIN)

    def log_prob(self) -> float:
        """The token's log-probability in what it was chosen from, in nats; on the CPU only."""
        log_probs = self.log_probs if self.normalised else self.log_probs.log_softmax(-1)
        # Plain indexing takes several times as long.
        return log_probs.numpy().item(int(self.place.item()))

    def margin_on_device(self) -> torch.Tensor:
        """What `weighed` says of the score, scalar."""
        return choice_margin(self.scores, self.place[0])

    def log_prob_on_device(self) -> torch.Tensor:
        """What `log_prob` says, scalar."""
        value = self.log_probs.gather(0, self.place)[0]
        return value if self.normalised else value - self.log_probs.logsumexp(-1)


@dataclass(frozen=True, slots=True)
class Perturbation:
    """A token is chosen whose logit / `temperature` + `noise` is largest."""

    temperature: float = 1.0
    noise: torch.Tensor | None = None  # [k, C] float32; None: none


@dataclass(frozen=True, slots=True)
class PointMass:
    """A drafter's token that was chosen from nothing: all the probability is on it."""

    token: int

    def weighed(self) -> tuple[int, float]:
        """Like `Choice.weighed`; no other token has a score, which counts as no margin at all."""
        return self.token, 0.0

    def log_prob(self) -> float:
        """In nats."""
        return 0.0


def choice_margin(scores: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """How far the scores `[..., V]` of `tokens` `[...]` are above every other's, `[...]`.

    At most `LARGEST_MARGIN`: top-k and top-p may leave a single token.
    """
    where = tokens[..., None]
    others = scores.scatter(-1, where, -torch.inf).amax(-1)  # on CPUs twice as fast as topk(2)
    return (scores.gather(-1, where)[..., 0] - others).clamp_max(LARGEST_MARGIN)


def best(scores: torch.Tensor) -> torch.Tensor:
    """Index of the largest of `scores` `[..., V]`, `[..., 1]`."""
    if scores.device.type == "cpu":  # NumPy's argmax is several times as fast
        return torch.from_numpy(scores.numpy().argmax(-1, keepdims=True))
    return scores.argmax(-1, keepdim=True)


def _chosen(
    place: torch.Tensor,
    log_probs: torch.Tensor,
    scores: torch.Tensor,
    ids: torch.Tensor | None,
    *,
    normalised: bool,
) -> Choice:
    if ids is None:
        return Choice(place, log_probs, scores, normalised)
    return Choice(ids.index_select(0, place), log_probs, scores, normalised, place)


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


def row(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`values[index]` for a scalar tensor `index`, without a host synchronisation."""
    return values.index_select(0, index.view(1))[0]


def leading(kept: torch.Tensor) -> torch.Tensor:
    """How many leading entries of a boolean `[k]` hold."""
    return kept.long().cumprod(0).sum()


class Greedy:
    """Temperature 0: a drafted token stands iff it is the target's most probable one."""

    needs_log_probs = False

    def propose(
        self, logits: torch.Tensor, position: int, ids: torch.Tensor | None = None
    ) -> Choice:
        return _chosen(best(logits), logits, logits, ids, normalised=False)

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
        return _agreement(best(logits)[:, 0], tokens)


def _agreement(picks: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many of `tokens` `[k]` `picks` `[k + 1]` begin with, and the pick after them."""
    if (
        picks.device.type == "cpu"
    ):  # few calls: after a forward pass each finds its code out of cache
        found, drafted = picks.tolist(), tokens.tolist()
        accepted = next((n for n, (a, b) in enumerate(zip(found, drafted)) if a != b), len(drafted))
        return torch.tensor(accepted), picks[accepted]
    kept = leading(picks[:-1] == tokens)
    return kept, row(picks, kept)


@dataclass
class Rejection:
    """Speculative sampling (arXiv:2211.17192, arXiv:2302.01318): the target's distribution.

    Accept x ~ q with probability min(1, p(x) / q(x)); at the first rejection sample from the
    normalised positive part of p - q, after full acceptance from p.
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
        return _chosen(place, log_probs, log_probs, ids, normalised=True)

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
            # After full acceptance nothing is taken off.
            residual = (residual - q * (accepted < len(tokens))).clamp_min(0)
        return accepted, sample(residual, self.generator)


@dataclass
class Coupled:
    """Drafter and target pick with the same Gumbel noise; a drafted token stands iff they agree.

    The output is a function of (prompt, seed) alone, whatever drafts (arXiv:2408.07978).
    """

    sampling: Sampling
    noise: GumbelNoise
    needs_log_probs = False

    def propose(
        self, logits: torch.Tensor, position: int, ids: torch.Tensor | None = None
    ) -> Choice:
        log_probs, scores = self.weigh(logits[None], range(position, position + 1), ids)
        return _chosen(best(scores[0]), log_probs[0], scores[0], ids, normalised=False)

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
        _, scores = self.weigh(logits, range(position, position + len(logits)))
        return _agreement(best(scores)[:, 0], tokens)


def weigh_rows(
    rules: Sequence[Verification],
    logits: torch.Tensor,
    positions: Sequence[Sequence[int]],
    ids: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `rules[b].weigh` says of `logits[b]` at `positions[b]`, `[B, W, C]` both, in one go."""
    if all(isinstance(rule, Greedy) for rule in rules):
        return logits, logits
    coupled = [rule for rule in rules if isinstance(rule, Coupled)]
    if len(coupled) == len(rules) and len({rule.sampling for rule in coupled}) == 1:
        log_probs = warp_logits(logits, coupled[0].sampling)
        scores = log_probs.clone()
        for rule, row, places in zip(coupled, scores, positions):
            rule.noise.add_to(row, places, ids)
        return log_probs, scores
    found = [rule.weigh(row, places, ids) for rule, row, places in zip(rules, logits, positions)]
    return torch.stack([item[0] for item in found]), torch.stack([item[1] for item in found])


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
