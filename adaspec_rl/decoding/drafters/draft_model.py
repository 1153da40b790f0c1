"""A small language model as drafter."""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from adaspec_rl.decoding.drafters.drafter import Draft, Stop, draft_by_forwards
from adaspec_rl.decoding.verification import Verification
from adaspec_rl.engine.language_model import LanguageModel

if TYPE_CHECKING:
    from adaspec_rl.decoding.drafters.offloading import Offloading

PADDING = -1e4  # the logit of tokens that only the target knows: no chance, and yet finite


class DraftModel:
    """A small language model. One forward pass a drafted token; the first one also catches up.

    Where the text holds a token that only the target knows, its drafts are empty.

    Attributes:
        offloading: what may take its weights off the device; None: nothing does.
    """

    def __init__(self, model: LanguageModel, vocab_size: int, name: str | None = None) -> None:
        """`vocab_size` is the target's; logits are cut or padded to it."""
        self.name = name or model.name
        self.model = model
        self.context_length = model.context_length
        self.vocab_size = vocab_size
        self.offloading: Offloading | None = None
        self.starts = 0
        self._read = 0  # tokens of the sequence in the model's cache
        self._resets = 0  # of the model, when it began to read the sequence

    def start(self) -> None:
        self.starts += 1
        self.forget()

    def forget(self) -> None:
        """Read the sequence anew when it is needed next."""
        self._read = 0

    def propose(
        self, sequence: torch.Tensor, length: int, rule: Verification, stop: Stop | None = None
    ) -> Draft:
        if self.offloading is not None and not self.offloading.ready(self):
            return Draft(sequence[:0])
        if self.model.resets != self._resets:  # somebody else has used it
            self.forget()
        if not self._can_read(sequence[self._read :]):
            return Draft(sequence[:0])
        if not self._read:
            self.model.reset()
            self._resets = self.model.resets
        n = len(sequence)
        draft = draft_by_forwards(self._logits, sequence[self._read :], n, length, rule, stop)
        self._read = n + len(draft) - 1  # the last drafted token was not read
        return draft

    def _can_read(self, unread: torch.Tensor) -> bool:
        """Whether the model has embeddings of all tokens; the target may know more of them."""
        known = self.model.vocab_size
        return known >= self.vocab_size or bool((unread < known).all())

    def _logits(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.fit(self.model.extend(tokens, keep=1)[0, 0])

    def keep(self, length: int) -> None:
        self.model.check()
        if length < self._read:
            self.model.rollback(length)
            self._read = length

    def rest(self) -> None:
        if self.offloading is not None:
            self.offloading.rest(self)

    def fit(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits `[..., V]` of the target's vocabulary, cut or padded."""
        missing = self.vocab_size - logits.shape[-1]  # embeddings padded to another size
        if missing > 0:
            return F.pad(logits, (0, missing), value=PADDING)
        return logits[..., : self.vocab_size] if missing < 0 else logits
