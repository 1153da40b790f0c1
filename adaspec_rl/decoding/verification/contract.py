"""The protocol of rules, which decide how many drafted tokens are accepted and what follows.

A rule sees the target's logits `[k + 1, V]` at the drafted positions and the one after, and keeps a
prefix of the draft. All work stays on the device; the results are tensors.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch

from adaspec_rl.decoding.picks import Pick
from adaspec_rl.decoding.trigrams import Candidates
from adaspec_rl.decoding.verification.choice import Choice, Perturbation


class Verification(Protocol):
    """One rule, holding the random state of one sequence.

    If a drafter knows only `C` tokens, `ids` `[C]` says which ones; None: it knows all of them.
    """

    @property
    def needs_log_probs(self) -> bool:
        """Whether `verify` reads the distributions that drafted tokens were drawn from."""
        ...

    def propose(
        self, logits: torch.Tensor, position: int, ids: torch.Tensor | None = None
    ) -> Choice:
        """Choose a drafter's token for `position` from its logits `[C]`."""
        ...

    def perturbation(
        self, positions: Sequence[int], ids: torch.Tensor | None = None
    ) -> Perturbation | None:
        """The perturbation that `propose` uses at `positions`; None: it chooses differently."""
        ...

    def pick(self, candidates: Candidates, position: int) -> Pick:
        """Choose a drafter's token for `position` from a short list."""
        ...

    def weigh(
        self, logits: torch.Tensor, positions: Sequence[int], ids: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and scores `[k, C]` at `k` positions, from logits `[k, C]`.

        Greedy and coupled choices are the argmax of the scores; a sampled choice is a draw from the
        log-probabilities. The log-probabilities are normalised only for sampling, and otherwise
        known up to a constant. For greedy choices, both results are the logits themselves.
        """
        ...

    def verify(
        self,
        logits: torch.Tensor,
        tokens: torch.Tensor,
        draft_log_probs: torch.Tensor | None,
        position: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`(accepted, next token)`, scalars, for the draft `tokens` `[k]` from `position` on.

        `draft_log_probs` `[k, V]` are the drafter's; None stands for a point mass on each drafted
        token.
        """
        ...


@runtime_checkable
class Walks(Protocol):
    """A rule that walks through token trees in its own way."""

    def walk(
        self, logits: torch.Tensor, children: Sequence[Mapping[int, int]], position: int
    ) -> tuple[list[int], int]:
        """The nodes of the accepted path, and the token after it; see `verify_tree`.

        `children` maps each node's tokens to its children; the root's children come last.
        """
        ...
