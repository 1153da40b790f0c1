"""From logits to tokens: temperature, top-k, top-p, and seeded noise."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


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


def logits_to_log_probs(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Log-probabilities `[..., V]` after temperature, top-k and top-p, in that order."""
    logits = logits / max(sampling.temperature, 1e-5)
    if 0 < sampling.top_k < logits.shape[-1]:
        smallest = logits.topk(sampling.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        probs = ordered.softmax(-1)
        before = probs.cumsum(-1) - probs  # mass of the more probable tokens
        dropped = torch.zeros_like(before, dtype=torch.bool)
        dropped.scatter_(-1, order, before >= sampling.top_p)
        logits = logits.masked_fill(dropped, -torch.inf)
    return logits.log_softmax(-1)


def sample(probs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One index a row, `[...]` int64, from weights `[..., V]` that need not sum to 1."""
    # An exponential race: argmax(p / E) is distributed as p. No host synchronisation.
    race = torch.empty_like(probs).exponential_(generator=generator)
    return (probs / race).argmax(-1)


class GumbelNoise:
    """Standard Gumbel noise, a pure function of (seed, position, token).

    Target and drafter see the same noise at the same position, so that they pick alike wherever
    their distributions are alike: coupling without communication (arXiv:2408.07978). Values come
    from an integer hash, hence are equal on every device, in any order of evaluation.
    """

    BLOCK = 64  # positions computed at a time

    def __init__(self, seed: int, vocab_size: int, device: torch.device) -> None:
        self.seed, self.vocab_size, self.device = seed, vocab_size, device
        self._blocks: dict[int, torch.Tensor] = {}

    def at(self, positions: Sequence[int]) -> torch.Tensor:
        """Noise `[len(positions), V]` float32; a range of positions takes the least time."""
        if not isinstance(positions, range):
            rows = [self._block(place // self.BLOCK)[place % self.BLOCK] for place in positions]
            return torch.stack(rows)
        first, last = positions[0] // self.BLOCK, positions[-1] // self.BLOCK
        blocks = [self._block(index) for index in range(first, last + 1)]
        joined = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
        offset = positions[0] - first * self.BLOCK
        return joined[offset : offset + len(positions)]

    def add_to(self, values: torch.Tensor, positions: Sequence[int]) -> None:
        """Add the noise of `positions` to the rows of `values` `[len(positions), V]`."""
        for row, place in zip(values, positions):
            row += self._block(place // self.BLOCK)[place % self.BLOCK]

    def _block(self, index: int) -> torch.Tensor:
        if index not in self._blocks:
            start = index * self.BLOCK
            positions = torch.arange(start, start + self.BLOCK, device=self.device)
            self._blocks[index] = gumbel(self.seed, positions, self.vocab_size)
        return self._blocks[index]


def gumbel(seed: int, positions: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Gumbel noise `[len(positions), vocab_size]` float32 from an integer hash."""
    tokens = torch.arange(vocab_size, device=positions.device)
    state = _mix(_mix(positions[:, None] + (seed & 0x7FFFFFFF) * 0x9E3779B1) ^ tokens)
    uniform = (_mix(state).double() + 0.5) / 2**32
    return -torch.log(-torch.log(uniform)).float()


def _mix(x: torch.Tensor) -> torch.Tensor:
    """A 32-bit finaliser (lowbias32) in int64 arithmetic, so that nothing overflows."""
    x = x & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return x ^ (x >> 16)
