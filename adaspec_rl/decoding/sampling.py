"""From logits to tokens: temperature, top-k and top-p."""

import math
from dataclasses import dataclass

import numpy as np
import torch

SAMPLER = 2  # raised when the same seed and settings give other texts: versions are never mixed


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the target's tokens are chosen; temperature 0 means the most probable one."""

    temperature: float = 0.0
    top_k: int = 0  # 0 = off
    top_p: float = 1.0  # 1 = off

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must be at least 0, got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be at least 0 (0 = off), got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")

    @property
    def divisor(self) -> float:
        """What logits are divided by."""
        return max(self.temperature, 1e-5)

    @property
    def truncates(self) -> bool:
        """Whether top-k or top-p leaves tokens out."""
        return self.top_k > 0 or self.top_p < 1


def warp_logits(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Logits `[..., V]` after temperature, top-k and top-p, in that order; -inf: never chosen.

    They are log-probabilities up to a constant. Top-k keeps the `top_k` largest logits. Top-p keeps
    the fewest of the largest logits whose mass reaches `top_p`. Of equal logits, those of lower
    token ids come first.
    """
    logits = logits / sampling.divisor
    top_k = sampling.top_k if 0 < sampling.top_k < logits.shape[-1] else None
    if top_k is None and sampling.top_p == 1:
        return logits
    if logits.device.type != "cpu":
        return truncated(logits, top_k, sampling.top_p)
    rows = logits.reshape(-1, logits.shape[-1])
    found = torch.full_like(rows, -torch.inf)
    for row, kept in zip(rows, found):
        ids = _kept(row, top_k, sampling.top_p)
        kept.numpy()[ids] = row.numpy()[ids]
    return found.view(logits.shape)


def sample(probs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One index per row, `[...]` int64, from weights `[..., V]` that need not sum to 1."""
    mass = probs.cumsum(-1, dtype=torch.float64)
    luck = torch.rand(
        (*probs.shape[:-1], 1), dtype=torch.float64, device=probs.device, generator=generator
    )
    total = mass[..., -1:]
    below = torch.minimum(luck * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(mass, below, right=True)[..., 0]


def best(scores: torch.Tensor) -> torch.Tensor:
    """Index of the largest of `scores` `[..., V]`, `[..., 1]`."""
    if scores.device.type == "cpu":  # NumPy's argmax is several times as fast
        return torch.from_numpy(scores.numpy().argmax(-1, keepdims=True))
    return scores.argmax(-1, keepdim=True)


def truncated(logits: torch.Tensor, top_k: int | None, top_p: float) -> torch.Tensor:
    """Top-k and top-p of logits `[..., V]` without a host synchronisation."""
    if top_k is None:
        ordered, order = logits.sort(dim=-1, descending=True)
        probs = logits.softmax(-1).gather(-1, order)
    else:
        ordered = logits.topk(top_k, dim=-1).values
        probs = ordered.softmax(-1)
    mass = probs.cumsum(-1, dtype=torch.float64)
    count = 1 + (mass[..., :-1] < _enough(top_p)).sum(-1, keepdim=True)
    smallest = ordered.gather(-1, count - 1)
    above, equal = logits > smallest, logits == smallest
    ties = count - above.sum(-1, keepdim=True)
    return logits.masked_fill(~(above | equal & (equal.cumsum(-1) <= ties)), -torch.inf)


def _kept(row: torch.Tensor, top_k: int | None, top_p: float) -> np.ndarray:
    """Ids of the tokens that top-k and top-p keep, from logits `[V]` on the CPU.

    Top-p keeps only tokens whose probability is at least (1 - top_p) / V, because all others
    together have less than 1 - top_p. These are few if the model is fairly sure, and only they are
    sorted.
    """
    values = row.numpy()
    if top_k is None:
        probs = row.softmax(-1).numpy()
        least = 0.999 * (1 - top_p) / len(row)  # 0.999 allows for the rounding of sums
        likely = np.flatnonzero(probs >= least)
        # Sorted separately, as NumPy sorts values many times faster than it finds their order.
        ordered, probs = (-np.sort(-part[likely]) for part in (values, probs))
    else:
        largest = row.topk(top_k).values
        ordered, probs = largest.numpy(), largest.softmax(-1).numpy()
    mass = probs.cumsum(dtype=np.float64)
    count = 1 + int((mass[:-1] < _enough(top_p)).sum())
    smallest = ordered[count - 1]
    ids = np.flatnonzero(values >= smallest)
    if len(ids) == count:
        return ids
    equal = values[ids] == smallest
    return ids[~equal | (equal.cumsum() <= count - (~equal).sum())]


def _enough(top_p: float) -> float:
    """The mass at which top-p stops; infinite if it is off, so that rounding cannot reach it."""
    return top_p if top_p < 1 else math.inf
