"""A chain of proposed tokens, and what they were chosen from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from adaspec_rl.decoding.picks import PickSignals


@dataclass(frozen=True, slots=True)
class Draft:
    """Proposed tokens, on the device."""

    tokens: torch.Tensor  # [k] int64
    logits: torch.Tensor | None = None  # [k, C], the drafter's; None for a drafter without any
    log_probs: torch.Tensor | None = None  # [k, C], what they were drawn from; None: a point mass
    scores: torch.Tensor | None = None  # [k, C], what they were chosen from (`Verification.weigh`)
    normalised: bool = False  # whether `log_probs` are normalised, not just up to a constant
    picks: Sequence[PickSignals] = ()  # [k], of tokens picked from short lists, not from logits
    ids: torch.Tensor | None = None  # [C], the tokens that the columns stand for; None: all of them
    among: torch.Tensor | None = None  # [k], the indices of `tokens` in `ids`
    hidden: torch.Tensor | None = None  # [k, hidden], the drafter's normalised states, if known

    def __len__(self) -> int:
        return len(self.tokens)

    def first(self, count: int) -> "Draft":
        """The draft's first `count` tokens."""
        if count == len(self):
            return self

        def cut(values: torch.Tensor | None) -> torch.Tensor | None:
            return None if values is None else values[:count]

        return replace(
            self,
            tokens=self.tokens[:count],
            logits=cut(self.logits),
            log_probs=cut(self.log_probs),
            scores=cut(self.scores),
            picks=self.picks[:count],
            among=cut(self.among),
            hidden=cut(self.hidden),
        )

    @property
    def places(self) -> torch.Tensor:
        """The columns of the drafted tokens, `[k]`."""
        return self.tokens if self.among is None else self.among

    def own_log_probs(self, vocab_size: int) -> torch.Tensor:
        """The drafter's own untempered log-probabilities `[k, V]`; -inf outside `ids`."""
        assert self.logits is not None
        own = self.logits.log_softmax(-1)
        if self.ids is None:
            return own
        whole = own.new_full((len(self), vocab_size), -torch.inf)
        return whole.index_copy_(1, self.ids, own)

    def all_log_probs(self, vocab_size: int) -> torch.Tensor | None:
        """`log_probs` over the whole vocabulary, `[k, V]`; -inf for tokens outside `ids`."""
        if self.ids is None or self.log_probs is None:
            return self.log_probs
        whole = self.log_probs.new_full((len(self), vocab_size), -torch.inf)
        return whole.index_copy_(1, self.ids, self.log_probs)
