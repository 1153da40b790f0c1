"""A draft model that also reads the target's hidden states (EAGLE, arXiv:2401.15077)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from adaspec_rl.decoding.drafters.draft_model import DraftModel
from adaspec_rl.decoding.token_sequence import TokenSequence
from adaspec_rl.engine.language_model import LanguageModel
from adaspec_rl.engine.lean_model import LeanModel


class HiddenStateDrafter(DraftModel):
    """Reads with each token the target's normalised hidden state at the position before it.

    Where the target's state is not known yet, the drafter's own hidden state stands in for it. The
    drafter forgets what it read of its own drafts, and reads those tokens again with the target's
    states once they are committed. So a draft depends on the committed text alone.
    """

    model: LeanModel
    needs_hidden = True

    def __init__(self, model: LeanModel, target: LeanModel, name: str | None = None) -> None:
        """`model` must read features as wide as the target's hidden state."""
        super().__init__(model, target.vocab_size, name)
        self.target = target

    def _features(self, sequence: TokenSequence) -> torch.Tensor:
        assert sequence.features is not None
        return sequence.features[None, self._read : len(sequence)]

    def _has_read(self, sequence: TokenSequence, drafted: int) -> None:
        self._read = len(sequence)  # its own drafts are read again

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
        self.keep(length)  # it reads its own drafts again


def target_states(target: LeanModel, tokens: torch.Tensor) -> torch.Tensor:
    """The target's normalised hidden states `[B, T, hidden]` of texts `tokens` `[B, T]`."""
    batch, width = tokens.shape
    target.reset(batch, width)
    target.extend(tokens.to(target.device), keep=1, states=width)
    assert target.last_hidden is not None
    return target.last_hidden


def unknown_features(model: LanguageModel, tokens: torch.Tensor) -> dict[str, Any]:
    """Further arguments of `extend` for `tokens` `[B, W]` without known hidden states: zeros."""
    if not isinstance(model, LeanModel) or not model.architecture.reads_features:
        return {}
    hidden = model.architecture.hidden_size
    return {"features": torch.zeros(*tokens.shape, hidden, device=model.device)}
