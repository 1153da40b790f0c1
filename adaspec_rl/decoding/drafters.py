"""What proposes tokens. A drafter keeps its own cache and catches up only when it is asked."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from adaspec_rl.decoding.verification import Choice, Verification
from adaspec_rl.engine.language_model import LanguageModel


@dataclass(frozen=True, slots=True)
class Draft:
    """Proposed tokens, on the device."""

    tokens: torch.Tensor  # [k] int64
    logits: torch.Tensor | None  # [k, V], the drafter's; None for a drafter without any
    log_probs: torch.Tensor | None  # [k, V], what the tokens were drawn from; None: a point mass
    scores: torch.Tensor | None = None  # [k, V], what they were chosen from (`Verification.scores`)

    def __len__(self) -> int:
        return len(self.tokens)


PADDING = -1e4  # the logit of tokens that only the target knows: no chance, and yet finite

# Told each drafted token's logits `[V]` and choice, it says whether to stop drafting.
Stop = Callable[[torch.Tensor, Choice], bool]


class Drafter(Protocol):
    """Proposes continuations of a sequence."""

    name: str
    context_length: int  # the most tokens that it can read

    def start(self) -> None:
        """Forget the sequence; a new one begins."""
        ...

    def propose(
        self, sequence: torch.Tensor, length: int, rule: Verification, stop: Stop | None = None
    ) -> Draft:
        """Draft 1 to `length` tokens after `sequence` `[n]`, all of it committed.

        `stop` is asked after each token but the last; None: never stop early.
        """
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
        self, sequence: torch.Tensor, length: int, rule: Verification, stop: Stop | None = None
    ) -> Draft:
        unread = sequence[None, self._read :]  # [1, n - read]
        rows: list[torch.Tensor] = []
        choices: list[Choice] = []
        position = len(sequence)
        while True:
            row = self.fit(self.model.extend(unread, keep=1)[0, 0])  # [V]
            choice = rule.propose(row, position)
            rows.append(row)
            choices.append(choice)
            self._read = position
            position += 1
            if len(rows) == length:
                break
            if stop is not None and stop(row, choice):
                break
            unread = choice.token[None]
        logits = torch.stack(rows)
        plain = choices[0].scores is rows[0]  # greedy: chosen from the logits as they are
        return Draft(
            tokens=torch.cat([choice.token for choice in choices]),
            logits=logits,
            log_probs=logits if plain else torch.stack([choice.log_probs for choice in choices]),
            scores=logits if plain else torch.stack([choice.scores for choice in choices]),
        )

    def keep(self, length: int) -> None:
        self.model.check()
        if length < self._read:
            self.model.rollback(length)
            self._read = length

    def fit(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits `[..., V]` of the target's vocabulary, cut or padded."""
        missing = self.vocab_size - logits.shape[-1]  # embeddings padded to another size
        if missing > 0:
            return F.pad(logits, (0, missing), value=PADDING)
        return logits[..., : self.vocab_size] if missing < 0 else logits
