"""What a drafter is. It keeps its own state and catches up only when it is asked."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from adaspec_rl.decoding.verification import Choice, PointMass, Verification


@dataclass(frozen=True, slots=True)
class Draft:
    """Proposed tokens, on the device."""

    tokens: torch.Tensor  # [k] int64
    logits: torch.Tensor | None = None  # [k, V], the drafter's; None for a drafter without any
    log_probs: torch.Tensor | None = None  # [k, V], what they were drawn from; None: a point mass
    scores: torch.Tensor | None = None  # [k, V], what they were chosen from (`Verification.scores`)

    def __len__(self) -> int:
        return len(self.tokens)


# Told each drafted token's logits `[V]` (None: there are none) and choice, it says whether to stop.
Stop = Callable[[torch.Tensor | None, Choice | PointMass], bool]


class Drafter(Protocol):
    """Proposes continuations of a sequence."""

    name: str
    context_length: int  # the most tokens that it can read
    starts: int  # sequences begun: where several sessions use it by turns, it grows

    def start(self) -> None:
        """Forget the sequence; a new one begins."""
        ...

    def propose(
        self, sequence: torch.Tensor, length: int, rule: Verification, stop: Stop | None = None
    ) -> Draft:
        """Draft up to `length` tokens after `sequence` `[n]`, all of it committed.

        `stop` is asked after each token but the last; None: never stop early. A drafter that has
        nothing to say returns an empty draft.
        """
        ...

    def keep(self, length: int) -> None:
        """The first `length` tokens of what was read are committed; forget anything after."""
        ...

    def rest(self) -> None:
        """A round was played without it."""
        ...


def draft_by_forwards(
    read: Callable[[torch.Tensor], torch.Tensor],
    unread: torch.Tensor,
    position: int,
    length: int,
    rule: Verification,
    stop: Stop | None,
) -> Draft:
    """Draft with a model, one forward pass a token; the first one reads all of `unread` `[n]`.

    `read` maps tokens `[1, n]` to the logits `[V]` after them; `position` is the first draft's.
    """
    unread = unread[None]
    rows: list[torch.Tensor] = []
    choices: list[Choice] = []
    while True:
        row = read(unread)
        choice = rule.propose(row, position + len(rows))
        rows.append(row)
        choices.append(choice)
        if len(rows) == length or (stop is not None and stop(row, choice)):
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
