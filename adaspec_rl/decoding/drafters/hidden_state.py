"""A draft model that reads what the target knew, its hidden state (EAGLE, arXiv:2401.15077)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from adaspec_rl.decoding.drafters.draft_model import DraftModel
from adaspec_rl.decoding.token_sequence import TokenSequence
from adaspec_rl.engine.language_model import LanguageModel
from adaspec_rl.engine.lean_model import LeanModel


class HiddenStateDrafter(DraftModel):
    """Reads with each token the target's normalised hidden state at the position before it.

    After the last token whose state is known, its own hidden state stands in for the target's. What
    it has read of its own drafts is forgotten, and read again with the target's states once these
    tokens are committed: so a draft is a function of the committed text alone.
    """

    model: LeanModel
    needs_hidden = True

    def __init__(self, model: LeanModel, target: LeanModel, name: str | None = None) -> None:
        """`model` reads features of the width of the target's hidden state."""
        super().__init__(model, target.vocab_size, name)
        self.target = target

    def _features(self, sequence: TokenSequence) -> torch.Tensor:
        assert sequence.features is not None
        return sequence.features[None, self._read : len(sequence)]

    def _has_read(self, sequence: TokenSequence, drafted: int) -> None:
        self._read = len(sequence)  # what it reads beyond, it reads again

    def _reader(self, sequence: TokenSequence) -> Callable[[torch.Tensor], torch.Tensor]:
        features = self._features(sequence)

        def read(tokens: torch.Tensor) -> torch.Tensor:
            nonlocal features
            logits = self.model.extend(tokens, keep=1, features=features)[0, 0]
            assert self.model.last_hidden is not None
            features = self.model.last_hidden
            self._has_read(sequence, 0)
            return self.fit(logits)

        return read

    def keep(self, length: int) -> None:
        self._read = min(self._read, length)
        if int(self.model.lengths[0]) > self._read:
            self.model.rollback(self._read)

    def keep_path(self, length: int, nodes: Sequence[int]) -> None:
        self.keep(length)  # what it has read of its own drafts it reads again


def target_states(target: LeanModel, tokens: torch.Tensor) -> torch.Tensor:
    """The target's normalised hidden states `[B, T, hidden]` of texts `tokens` `[B, T]`."""
    batch, width = tokens.shape
    target.reset(batch, width)
    target.extend(tokens.to(target.device), keep=1, states=width)
    assert target.last_hidden is not None
    return target.last_hidden


def unknown_features(model: LanguageModel, tokens: torch.Tensor) -> dict[str, Any]:
    """Arguments of `extend` beside `tokens` `[B, W]` where no hidden state is known: zeros."""
    if not isinstance(model, LeanModel) or not model.architecture.reads_features:
        return {}
    hidden = model.architecture.hidden_size
    return {"features": torch.zeros(*tokens.shape, hidden, device=model.device)}
