"""A small language model as drafter."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from adaspec_rl.decoding.draft import Draft
from adaspec_rl.decoding.drafters.branching import ModelChoices, grown
from adaspec_rl.decoding.drafters.drafter import (
    Drafter,
    Stop,
    draft_at_once,
    draft_by_forwards,
)
from adaspec_rl.decoding.drafters.offloading import Offloading
from adaspec_rl.decoding.drafters.tree_reader import TreeReader
from adaspec_rl.decoding.token_sequence import TokenSequence
from adaspec_rl.decoding.token_tree import TokenTree
from adaspec_rl.decoding.tree_shape import TreeGrowth, TreeShape
from adaspec_rl.decoding.verification import Verification
from adaspec_rl.decoding.verification.lossy import Lenient
from adaspec_rl.engine.language_model import LanguageModel
from adaspec_rl.engine.lean_model import LeanModel

PADDING = -1e4  # the logit of tokens that only the target knows: no chance, and yet finite


class DraftModel:
    """A small language model that drafts one token per forward pass.

    The first pass also reads the text that is new since the last draft. Tokens that only the target
    knows are read as the model's last token: drafts after them stay valid, but are accepted less
    often. A model whose output is trimmed (`output_tokens`) drafts only those tokens.

    Attributes:
        offloading: may move the model's weights off the device; None: nothing does.
    """

    needs_hidden = False

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
        self._branch = TreeReader(self, torch.empty(1, 0))  # of the newest tree

    def prepare(self, length: int, progress: Callable[[float], None]) -> None:
        if self.offloading is None:  # offloaded weights may return to another address
            self.model.prepare(length, progress=progress)

    def start(self) -> None:
        self.starts += 1
        self.forget()

    def forget(self) -> None:
        """Forget what was read; the next draft reads the whole sequence again."""
        self._read = 0

    def propose(
        self, sequence: TokenSequence, length: int, rule: Verification, stop: Stop | None = None
    ) -> Draft:
        text = sequence.on_device
        if not self._ready():
            return Draft(text[:0])
        n, unread = len(sequence), text[self._read :]
        if stop is None:
            draft = draft_at_once(
                self.model,
                self.readable(unread[None]),
                range(n, n + length),
                rule,
                self.vocab_size,
                features=self._features(sequence),
            )
            if draft is not None:
                self._has_read(sequence, len(draft) - 1)
                return draft
        return draft_by_forwards(
            self._reader(sequence),
            unread,
            n,
            length,
            rule,
            stop,
            self.output_tokens,
            self._state if isinstance(rule, Lenient) and rule.rule.needs_states else None,
        )

    def _state(self) -> torch.Tensor | None:
        """The hidden states `[1, W, hidden]` of the last forward pass; None if not kept."""
        return self.model.last_hidden if isinstance(self.model, LeanModel) else None

    def branch(
        self, sequence: TokenSequence, shape: TreeShape | TreeGrowth, rule: Verification
    ) -> TokenTree:
        if not self._ready():
            return TokenTree((), ())
        self._branch = TreeReader(self, sequence.on_device[None, self._read :])
        self._branch.features = self._features(sequence)
        choices = ModelChoices(
            self._branch, rule, len(sequence), self.vocab_size, self.output_tokens
        )
        tree = grown(choices, shape, drawn=rule.needs_log_probs)
        self._has_read(sequence, 0)
        return tree

    def keep_path(self, length: int, nodes: Sequence[int]) -> None:
        path = self._branch.read(nodes)
        self.model.keep_path(length, path)
        self._read = length + len(path)

    def _ready(self) -> bool:
        """Prepare the model to read the sequence. Returns whether it can draft now."""
        if self.offloading is not None and not self.offloading.ready(self):
            return False
        if self.model.resets != self._resets:  # somebody else has used it
            self.forget()
        if not self._read:
            self.model.reset()
            self._resets = self.model.resets
        return True

    @property
    def output_tokens(self) -> torch.Tensor | None:
        """The tokens `[C]` that the model's logits stand for; None: the whole vocabulary."""
        return self.model.output_tokens

    def _features(self, sequence: TokenSequence) -> torch.Tensor | None:
        """The features `[1, n, hidden]` that the model reads with its unread tokens; None: none."""
        return None

    def _has_read(self, sequence: TokenSequence, drafted: int) -> None:
        """Note that the model has read the whole sequence and `drafted` tokens after it."""
        self._read = len(sequence) + drafted

    def _reader(self, sequence: TokenSequence) -> Callable[[torch.Tensor], torch.Tensor]:
        """The function that `draft_by_forwards` calls to draft after `sequence`."""
        return self._logits

    def _logits(self, tokens: torch.Tensor) -> torch.Tensor:
        logits = self.model.extend(self.readable(tokens), keep=1)[0, 0]
        self._read += tokens.shape[1]
        return self.fit(logits)

    def keep(self, length: int) -> None:
        if length < self._read:
            self.model.rollback(length)
            self._read = length

    def rest(self) -> None:
        if self.offloading is not None:
            self.offloading.rest(self)

    def readable(self, tokens: torch.Tensor) -> torch.Tensor:
        """`tokens` as the model reads them: a token that it does not know becomes its last one."""
        known = self.model.vocab_size
        return tokens if known >= self.vocab_size else tokens.clamp_max(known - 1)

    def fit(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits cut or padded to the target's vocabulary, `[..., V]`; trimmed ones unchanged."""
        if self.output_tokens is not None:
            return logits
        missing = self.vocab_size - logits.shape[-1]  # embeddings padded to another size
        if missing > 0:
            return F.pad(logits, (0, missing), value=PADDING)
        return logits[..., : self.vocab_size] if missing < 0 else logits


def summon(drafter: Drafter) -> None:
    """Bring a drafter's own weights to the device, if they were moved off it."""
    if isinstance(drafter, DraftModel) and drafter.offloading is not None:
        drafter.offloading.bring(drafter)
