"""What is known about a drafted token before the target has seen it."""

import ctypes

import torch

from adaspec_rl.decoding.verification import LARGEST_MARGIN, choice_margin
from adaspec_rl.engine.cpu.build import loaded

SIGNALS = ("log_prob", "entropy", "margin", "choice_margin")


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
    if scores is logits:
        scores = None
    if (compiled := _compiled(logits)) is not None:
        return _draft_signals_compiled(compiled, logits, tokens, log_probs, scores)
    if log_probs is not None and not normalised:
        log_probs = log_probs.log_softmax(-1)
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


def _compiled(logits: torch.Tensor) -> ctypes.CDLL | None:
    """The compiled code, which takes a fraction of the time, if it can read `logits`."""
    return loaded() if logits.device.type == "cpu" and logits.dtype == torch.float32 else None


def _draft_signals_compiled(
    compiled: ctypes.CDLL,
    logits: torch.Tensor,
    tokens: torch.Tensor,
    log_probs: torch.Tensor | None,
    scores: torch.Tensor | None,
) -> torch.Tensor:
    found = torch.empty(*tokens.shape, len(SIGNALS))
    read = [None if x is None else x.contiguous() for x in (logits, log_probs, scores, tokens)]
    compiled.draft_signals(
        *(ctypes.c_void_p(x.data_ptr() if x is not None else None) for x in read),
        ctypes.c_int64(tokens.numel()),
        ctypes.c_int64(logits.shape[-1]),
        ctypes.c_float(LARGEST_MARGIN),
        ctypes.c_int64(torch.get_num_threads()),
        ctypes.c_void_p(found.data_ptr()),
    )
    return found


def target_signals(logits: torch.Tensor) -> torch.Tensor:
    """Entropy in nats and largest probability of logits `[V]`, float64 `[2]`."""
    if (compiled := _compiled(logits)) is not None:
        found, row = torch.empty(2, dtype=torch.float64), logits.contiguous()
        compiled.target_signals(
            ctypes.c_void_p(row.data_ptr()),
            ctypes.c_int64(len(row)),
            ctypes.c_void_p(found.data_ptr()),
        )
        return found
    log_probs = logits.log_softmax(-1)
    return torch.stack([entropy(log_probs), log_probs.amax().exp()]).double()


def entropy(log_probs: torch.Tensor) -> torch.Tensor:
    """Entropy `[...]` in nats of finite log-probabilities `[..., V]`."""
    return -log_probs.exp().mul_(log_probs).sum(-1)


def gap(values: torch.Tensor) -> torch.Tensor:
    """How far the largest of `values` `[..., V]` is above the second largest, `[...]`."""
    largest, where = values.max(dim=-1, keepdim=True)
    return choice_margin(values, where[..., 0])
