"""A drafter's token, and what it was chosen from."""

import math
from dataclasses import dataclass

import torch

from adaspec_rl.decoding.picks import LARGEST_MARGIN


@dataclass(frozen=True, slots=True)
class Choice:
    """A drafter's token and what it was chosen from: all of the vocabulary, or `C` tokens."""

    token: torch.Tensor  # [1], its id
    log_probs: torch.Tensor  # [C], what `verify` needs
    scores: torch.Tensor  # [C]
    normalised: bool = True  # whether `log_probs` sum to 1; else they are up to a constant
    among: torch.Tensor | None = None  # [1], its index among the `C`; None: its id

    @property
    def place(self) -> torch.Tensor:
        """The token's index among those that it was chosen from, `[1]`."""
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
        """The margin that `weighed` returns, as a scalar tensor."""
        return choice_margin(self.scores, self.place[0])

    def log_prob_on_device(self) -> torch.Tensor:
        """The value that `log_prob` returns, as a scalar tensor."""
        value = self.log_probs.gather(0, self.place)[0]
        return value if self.normalised else value - self.log_probs.logsumexp(-1)


@dataclass(frozen=True, slots=True)
class Perturbation:
    """How a token is chosen: the one whose logit / `temperature` + `noise` is largest."""

    temperature: float = 1.0
    noise: torch.Tensor | None = None  # [k, C] float32; None: none


@dataclass(frozen=True, slots=True)
class PointMass:
    """A drafter's token without alternatives: it has all the probability."""

    token: int

    def weighed(self) -> tuple[int, float]:
        """Like `Choice.weighed`; the margin is 0, as no other token has a score."""
        return self.token, 0.0

    def log_prob(self) -> float:
        """The token's log-probability, in nats."""
        return 0.0


def choice_margin(scores: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """How far the scores `[..., V]` of `tokens` `[...]` are above every other's, `[...]`.

    At most `LARGEST_MARGIN`: top-k and top-p may leave a single token.
    """
    where = tokens[..., None]
    others = scores.scatter(-1, where, -torch.inf).amax(-1)  # on CPUs twice as fast as topk(2)
    return (scores.gather(-1, where)[..., 0] - others).clamp_max(LARGEST_MARGIN)


def chosen(
    place: torch.Tensor,
    log_probs: torch.Tensor,
    scores: torch.Tensor,
    ids: torch.Tensor | None,
    *,
    normalised: bool,
) -> Choice:
    """The choice of the token at index `place` `[1]` of `ids` `[C]`; None: of the vocabulary."""
    if ids is None:
        return Choice(place, log_probs, scores, normalised)
    return Choice(ids.index_select(0, place), log_probs, scores, normalised, place)
