"""A language model small enough to know everything about, for tests."""

from collections.abc import Sequence

import numpy as np
import torch

from adaspec_rl.decoding.drafters import Drafter, DraftModel
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.session import LiveSession


class ToyModel:
    """Logits are a random table over the last two tokens. Counts its forward passes."""

    def __init__(
        self, vocab_size: int = 8, seed: int = 0, sharpness: float = 2.0, context_length: int = 64
    ) -> None:
        self.name = f"toy{seed}"
        self.vocab_size = vocab_size
        self.context_length = context_length
        self.device, self.execution = torch.device("cpu"), "toy"
        generator = torch.Generator().manual_seed(seed)
        self.table = sharpness * torch.randn((vocab_size,) * 3, generator=generator)
        self.forwards: list[int] = []  # widths, in order
        self.cache: list[int] = []
        self.resets = 0
        self.output_tokens: torch.Tensor | None = None

    @property
    def lengths(self) -> torch.Tensor:
        return torch.tensor([len(self.cache)])

    def logits(self, text: Sequence[int]) -> torch.Tensor:
        """`[V]` after `text`."""
        return self.table[text[-2] if len(text) > 1 else 0, text[-1]]

    def prefill(self, tokens: torch.Tensor) -> torch.Tensor:
        self.reset()
        return self.extend(tokens)[:, -1]

    def extend(self, tokens: torch.Tensor, keep: int | None = None) -> torch.Tensor:
        width = tokens.shape[1]
        if len(self.cache) + width > self.context_length:
            raise ValueError("the toy's context is full")
        self.forwards.append(width)
        rows = []
        for token in tokens[0].tolist():
            self.cache.append(token)
            rows.append(self.logits(self.cache))
        return torch.stack(rows)[None, -(keep or width) :]

    def extend_tree(
        self, tokens: torch.Tensor, parents: Sequence[int], keep: int | None = None
    ) -> torch.Tensor:
        width = tokens.shape[1]
        if len(self.cache) + width > self.context_length:
            raise ValueError("the toy's context is full")
        self.forwards.append(width)
        stem = len(self.cache) - (len(parents) - width)
        self.cache += tokens[0].tolist()
        rows = []
        for node in range(len(parents) - width, len(parents)):
            path = []
            while node >= 0:
                path.insert(0, self.cache[stem + node])
                node = parents[node]
            rows.append(self.logits(self.cache[:stem] + path))
        return torch.stack(rows)[None, -(keep or width) :]

    def keep_path(self, length: int, nodes: Sequence[int]) -> None:
        self.cache = self.cache[:length] + [self.cache[length + node] for node in nodes]

    def prepare(self, length: int, **options) -> None:
        pass

    def rollback(self, lengths: torch.Tensor | int) -> None:
        del self.cache[int(lengths) :]

    def reset(self, batch: int = 1, length: int = 0) -> None:
        self.resets += 1
        self.cache = []

    pending = None

    def check(self, found: int | None = None) -> None:
        pass


def similar(model: ToyModel, weight: float, seed: int = 99) -> ToyModel:
    """A drafter whose logits are the model's, mixed with `weight` of noise."""
    drafter = ToyModel(model.vocab_size, seed, context_length=model.context_length)
    drafter.table = (1 - weight) * model.table + weight * drafter.table
    return drafter


def toy_session(
    target: ToyModel,
    drafters: Sequence[ToyModel | Drafter],
    *,
    max_new_tokens: int = 20,
    temperature: float = 0.0,
    verification: str = "rejection",
    eos_ids: Sequence[int] = (),
    sampling: Sampling | None = None,
) -> LiveSession:
    return LiveSession(
        target,
        [
            DraftModel(drafter, target.vocab_size) if isinstance(drafter, ToyModel) else drafter
            for drafter in drafters
        ],
        eos_ids=eos_ids,
        max_new_tokens=max_new_tokens,
        sampling=sampling or Sampling(temperature),
        verification=verification,
    )


def greedy_text(
    model: ToyModel, prompt: Sequence[int], count: int, eos_ids: Sequence[int] = ()
) -> list[int]:
    """Plain greedy decoding, written as simply as can be."""
    text = list(prompt)
    for _ in range(count):
        text.append(int(model.logits(text).argmax()))
        if text[-1] in eos_ids:
            break
    return text[len(prompt) :]


def exact_distribution(
    model: ToyModel, prompt: Sequence[int], count: int, temperature: float
) -> np.ndarray:
    """Probability of every continuation of `count` tokens, `[V] * count`."""
    shape = (model.vocab_size,) * count
    found = np.empty(shape)
    for index in np.ndindex(*shape):
        probability, text = 1.0, list(prompt)
        for token in index:
            probability *= float((model.logits(text) / temperature).softmax(-1)[token])
            text.append(token)
        found[index] = probability
    return found
