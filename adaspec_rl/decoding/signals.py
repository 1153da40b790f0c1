"""What is known of a drafted token before the target has seen it."""

from dataclasses import dataclass

import torch

SIGNALS = ("log_prob", "entropy", "margin", "choice_margin")


@dataclass(frozen=True, slots=True)
class DraftSignals:
    """Signals of drafted tokens, each `[...]` float32; entropies and log-probabilities in nats."""

    log_prob: torch.Tensor  # of the token, by the drafter
    entropy: torch.Tensor  # of the drafter's distribution
    margin: torch.Tensor  # log-probability gap between the drafter's first and second choice
    choice_margin: torch.Tensor  # likewise, in what it chose from: tempered, with the noise added

    def stacked(self) -> torch.Tensor:
        """`[..., 4]`, in the order of `SIGNALS`."""
        return torch.stack([getattr(self, name) for name in SIGNALS], dim=-1)


def draft_signals(
    logits: torch.Tensor, tokens: torch.Tensor, scores: torch.Tensor | None = None
) -> DraftSignals:
    """Signals of `tokens` `[...]` drawn by a drafter with finite `logits` `[..., V]`.

    `scores` `[..., V]` are what the tokens were chosen from; None: the logits themselves.
    """
    log_probs = logits.log_softmax(-1)
    margin = gap(logits)
    return DraftSignals(
        log_prob=log_probs.gather(-1, tokens[..., None])[..., 0],
        entropy=entropy(log_probs),
        margin=margin,
        choice_margin=margin if scores is None or scores is logits else gap(scores),
    )


def entropy(log_probs: torch.Tensor) -> torch.Tensor:
    """Entropy `[...]` in nats of finite log-probabilities `[..., V]`."""
    return -log_probs.exp().mul_(log_probs).sum(-1)


def gap(values: torch.Tensor) -> torch.Tensor:
    """How far the largest of `values` `[..., V]` is above the second largest, `[...]`."""
    largest, where = values.max(dim=-1, keepdim=True)
    rest = values.scatter(-1, where, -torch.inf).amax(-1)  # on CPUs twice as fast as topk(2)
    return largest[..., 0] - rest
