"""What is known about a drafted token before the target has seen it."""

import numpy as np
import torch

from adaspec_rl.decoding.verification import LARGEST_MARGIN, choice_margin

SIGNALS = ("log_prob", "entropy", "margin", "choice_margin")
FEW = 16  # rows


def draft_signals(
    logits: torch.Tensor,
    tokens: torch.Tensor,
    log_probs: torch.Tensor | None = None,
    scores: torch.Tensor | None = None,
    *,
    normalised: bool = False,
) -> torch.Tensor:
    """Signals `[..., 4]` float32 of `tokens` `[...]` drafted with finite `logits` `[..., V]`.

    In the order of `SIGNALS`: the token's log-probability in the distribution it was chosen from,
    in nats; the entropy of the drafter's own untempered distribution, in nats; the gap between the
    drafter's first and second choice; how far the token's score is above every other score.

    Args:
        log_probs: `[..., V]`, from `Verification.weigh`; None, or `logits`: a greedy choice.
        scores: likewise.
        normalised: whether `log_probs` are normalised, not just up to a constant.
    """
    if log_probs is logits:
        log_probs = None
    if log_probs is not None and not normalised:
        log_probs = log_probs.log_softmax(-1)
    if scores is logits:
        scores = None
    if logits.device.type == "cpu" and tokens.dim() == 1 and len(tokens) <= FEW:
        chosen = [None if values is None else values.numpy() for values in (log_probs, scores)]
        return torch.from_numpy(_few_signals(logits.numpy(), tokens.numpy(), *chosen))
    own = logits.log_softmax(-1)
    margin = gap(logits) if scores is not None else choice_margin(logits, tokens)
    drawn = own if log_probs is None else log_probs
    columns = [
        drawn.gather(-1, tokens[..., None])[..., 0],
        entropy(own),
        margin,
        margin if scores is None else choice_margin(scores, tokens),
    ]
    return torch.stack(columns, dim=-1)


def _few_signals(
    x: np.ndarray, tokens: np.ndarray, log_probs: np.ndarray | None, scores: np.ndarray | None
) -> np.ndarray:
    """`draft_signals` in NumPy: several times as fast for a few rows, where calls cost most."""
    rows = np.arange(len(x))
    first = tokens if scores is None else x.argmax(1)  # greedy: the token is the first choice
    top = x[rows, first]
    weights = np.exp(x - top[:, None])
    total = weights.sum(1)
    log_total = np.log(total) + top
    signals = np.empty((len(x), 4), dtype=np.float32)
    signals[:, 0] = x[rows, tokens] - log_total if log_probs is None else log_probs[rows, tokens]
    signals[:, 1] = log_total - np.einsum("ij,ij->i", weights, x) / total
    signals[:, 2] = top - _second(x, first)
    signals[:, 3] = signals[:, 2]
    if scores is not None:
        signals[:, 3] = scores[rows, tokens] - _second(scores, tokens)
    np.minimum(signals[:, 2:], LARGEST_MARGIN, out=signals[:, 2:])
    return signals


def _second(values: np.ndarray, first: np.ndarray) -> np.ndarray:
    rest = values.copy()
    rest[np.arange(len(rest)), first] = -np.inf
    return rest.max(1)


def target_signals(logits: torch.Tensor) -> torch.Tensor:
    """Entropy in nats and largest probability of logits `[V]`, float64 `[2]`."""
    if logits.device.type == "cpu":
        x = logits.numpy()
        top = x.max()
        weights = np.exp(x - top)
        total = weights.sum()
        return torch.tensor([np.log(total) + top - weights @ x / total, 1 / total]).double()
    log_probs = logits.log_softmax(-1)
    return torch.stack([entropy(log_probs), log_probs.amax().exp()]).double()


def entropy(log_probs: torch.Tensor) -> torch.Tensor:
    """Entropy `[...]` in nats of finite log-probabilities `[..., V]`."""
    return -log_probs.exp().mul_(log_probs).sum(-1)


def gap(values: torch.Tensor) -> torch.Tensor:
    """How far the largest of `values` `[..., V]` is above the second largest, `[...]`."""
    largest, where = values.max(dim=-1, keepdim=True)
    return choice_margin(values, where[..., 0])
