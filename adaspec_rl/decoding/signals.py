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
    """Signals of `tokens` `[...]` drawn by a drafter with `logits` `[..., V]`.

    `scores` `[..., V]` are what the tokens were chosen from; None: the logits themselves.
    """
    log_probs = logits.log_softmax(-1)
    margin = _gap(log_probs)
    return DraftSignals(
        log_prob=log_probs.gather(-1, tokens[..., None])[..., 0],
        entropy=entropy(log_probs),
        margin=margin,
        choice_margin=margin if scores is None else _gap(scores),
    )


def entropy(log_probs: torch.Tensor) -> torch.Tensor:
    """Entropy `[...]` in nats of log-probabilities `[..., V]`, of which some may be -inf."""
    return -(log_probs.exp() * log_probs.clamp_min(-1e4)).sum(-1)


def _gap(values: torch.Tensor) -> torch.Tensor:
    best = values.topk(2, dim=-1).values
    return best[..., 0] - best[..., 1]
