"""What proposes tokens. A drafter keeps its own cache and catches up only when it is asked."""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from adaspec_rl.decoding.verification import Verification
from adaspec_rl.engine.language_model import LanguageModel


@dataclass(frozen=True, slots=True)
class Draft:
    """Proposed tokens, on the device."""

    tokens: torch.Tensor  # [k] int64
    logits: torch.Tensor | None  # [k, V], the drafter's; None for a drafter without any
    log_probs: torch.Tensor | None  # [k, V], what the tokens were drawn from; None: a point mass

    def __len__(self) -> int:
        return len(self.tokens)


class Drafter(Protocol):
    """Proposes continuations of a sequence."""

    name: str
    context_length: int  # the most tokens that it can read

    def start(self) -> None:
        """Forget the sequence; a new one begins."""
        ...

    def propose(
        self, sequence: torch.Tensor, length: int, threshold: float, rule: Verification
    ) -> Draft:
        """Draft 1 to `length` tokens after `sequence` `[n]`, all of it committed."""
        ...

    def keep(self, length: int) -> None:
        """The first `length` tokens of what was read are committed; forget anything after."""
        ...


class DraftModel:
    """A small language model. One forward pass a drafted token; the first one also catches up."""

    def __init__(self, model: LanguageModel, vocab_size: int) -> None:
        """`vocab_size` is the target's; logits are cut or padded to it."""
        self.name = model.name
        self.model = model
        self.context_length = model.context_length
        self.vocab_size = vocab_size
        self._read = 0  # tokens of the sequence in the model's cache

    def start(self) -> None:
        self.model.reset()
        self._read = 0

    def propose(
        self, sequence: torch.Tensor, length: int, threshold: float, rule: Verification
    ) -> Draft:
        unread = sequence[None, self._read :]  # [1, n - read]
        tokens, logits, log_probs = [], [], []
        survival = 1.0
        position = len(sequence)
        for _ in range(length):
            row = self._fit(self.model.extend(unread, keep=1)[0, 0])  # [V]
            token, row_log_probs = rule.propose(row, position)
            tokens.append(token)
            logits.append(row)
            log_probs.append(row_log_probs)
            self._read = position
            position += 1
            if threshold > 0:
                survival *= math.exp(float(row.log_softmax(-1)[token]))
                if survival < threshold:
                    break
            unread = token.view(1, 1)
        return Draft(torch.stack(tokens), torch.stack(logits), torch.stack(log_probs))

    def keep(self, length: int) -> None:
        self.model.check()
        if length < self._read:
            self.model.rollback(length)
            self._read = length

    def _fit(self, logits: torch.Tensor) -> torch.Tensor:
        missing = self.vocab_size - logits.shape[-1]  # embeddings padded to another size
        if missing > 0:
            return F.pad(logits, (0, missing), value=-torch.inf)
        return logits[: self.vocab_size] if missing < 0 else logits
