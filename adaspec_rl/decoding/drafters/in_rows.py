"""Drafters for many texts at once, one row each."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from adaspec_rl.decoding.draft import Draft
from adaspec_rl.decoding.drafters.draft_model import DraftModel
from adaspec_rl.decoding.drafters.drafter import (
    Drafter,
    Stop,
    assembled,
    draft_rows_at_once,
)
from adaspec_rl.decoding.token_sequence import TokenSequence
from adaspec_rl.decoding.verification import Choice, Verification
from adaspec_rl.engine.extension import Extended, Extension
from adaspec_rl.engine.finite_check import not_finite
from adaspec_rl.engine.language_model import RowModel


@dataclass(frozen=True, slots=True)
class Request:
    """A request for a draft of up to `length` tokens (at least 1) after a row's text."""

    row: int
    sequence: TokenSequence
    length: int
    rule: Verification
    stop: Stop | None = None
    signals: bool = True  # whether those of the draft will be wanted


Proposal = Draft | FloatingPointError


class RowDrafter(Protocol):
    """Proposes continuations of many texts."""

    name: str
    context_length: int  # the most tokens that it can read
    needs_hidden: bool  # whether it reads the target's hidden states, `TokenSequence.features`

    @property
    def model(self) -> RowModel | None:
        """The model that it runs, or None."""
        ...

    def reset(self, rows: int) -> None:
        """Make room for `rows` texts; all rows are empty."""
        ...

    def start(self, row: int) -> None:
        """Forget the text in `row`; another one may begin there."""
        ...

    def propose(self, requests: Sequence[Request]) -> "list[Proposal]":
        """A draft for each request, which may be empty, or the error that prevented it."""
        ...

    def keep(self, row: int, length: int) -> None:
        """The first `length` tokens of what was read in `row` are committed; forget the rest."""
        ...


class LookupInRows:
    """Wraps a drafter without a model or state; it drafts for each text separately."""

    model: RowModel | None = None

    def __init__(self, drafter: Drafter) -> None:
        self.drafter = drafter
        self.name, self.context_length = drafter.name, drafter.context_length
        self.needs_hidden = drafter.needs_hidden

    def reset(self, rows: int) -> None:
        pass

    def start(self, row: int) -> None:
        pass

    def propose(self, requests: Sequence[Request]) -> list[Proposal]:
        return [
            self.drafter.propose(wanted.sequence, wanted.length, wanted.rule, wanted.stop)
            for wanted in requests
        ]

    def keep(self, row: int, length: int) -> None:
        pass


class ModelInRows:
    """A draft model that drafts token by token, all rows in one forward pass."""

    def __init__(self, drafter: DraftModel) -> None:
        """
        Raises:
            ValueError: the model runs through transformers, where all rows have the same length.
        """
        if not isinstance(drafter.model, RowModel):
            raise ValueError(
                f"{drafter.name} runs through transformers, where all texts of a batch have one "
                "length: decode one text at a time"
            )
        self._drafter = drafter
        self.model: RowModel = drafter.model
        self.name, self.context_length = drafter.name, drafter.context_length
        self.needs_hidden = drafter.needs_hidden
        self._read: list[int] = []  # tokens in the model's cache, by row
        self._given: list[int] = []  # of these, the tokens before its own drafts

    def reset(self, rows: int) -> None:
        self.model.reset(rows)
        self._read, self._given = [0] * rows, [0] * rows

    def start(self, row: int) -> None:
        self.model.free_row(row)
        self._read[row] = self._given[row] = 0

    def propose(self, requests: Sequence[Request]) -> list[Proposal]:
        drafts = [self._begin(wanted) for wanted in requests]
        made = self._at_once(drafts)
        if made is not None:
            return made
        growing = list(drafts)
        while growing:
            found = self.model.extend_rows([draft.reads for draft in growing])
            for draft, seen in zip(growing, found):
                self._read[draft.wanted.row] += draft.reads.width
                self._append(draft, seen)
            growing = [draft for draft in growing if not draft.ends]
        return [self._made(draft) for draft in drafts]

    def _begin(self, wanted: Request) -> "_Growing":
        sequence, read = wanted.sequence, self._read[wanted.row]
        features = None
        if self.needs_hidden:
            assert sequence.features is not None
            features = sequence.features[read : len(sequence)]
        self._given[wanted.row] = len(sequence)
        unread = self._drafter.readable(sequence.buffer[read : len(sequence)])
        return _Growing(wanted, Extension(wanted.row, unread, 1, 1, features))

    def _at_once(self, drafts: Sequence["_Growing"]) -> list[Proposal] | None:
        """Make all drafts in one call; None: that is not possible."""
        requests = [draft.wanted for draft in drafts]
        made = draft_rows_at_once(
            self.model,
            [draft.reads for draft in drafts],
            [range(n := len(one.sequence), n + one.length) for one in requests],
            [wanted.rule for wanted in requests],
            [wanted.stop for wanted in requests],
            self._drafter.vocab_size,
            any(wanted.signals for wanted in requests),
        )
        if made is None:
            return None
        for wanted, new in zip(requests, made):
            self._read[wanted.row] = len(wanted.sequence) + max(0, len(new or ()) - 1)
        return [self._refused(one.row) if new is None else new for one, new in zip(requests, made)]

    def _append(self, draft: "_Growing", seen: Extended) -> None:
        """Append the next token, and note what the model reads next."""
        wanted = draft.wanted
        draft.finite = seen.finite
        if not seen.finite:
            return
        logits = self._drafter.fit(seen.logits[0])
        position = len(wanted.sequence) + len(draft.choices)
        choice = wanted.rule.propose(logits, position, self._drafter.output_tokens)
        draft.logits.append(logits)
        draft.choices.append(choice)
        token, features = self._drafter.readable(choice.token), None
        if self.needs_hidden:
            features = seen.hidden
        draft.reads = Extension(wanted.row, token, 1, 1, features)

    def _made(self, draft: "_Growing") -> Proposal:
        if draft.finite:
            return assembled(draft.logits, draft.choices, self._drafter.output_tokens)
        return self._refused(draft.wanted.row)

    def _refused(self, row: int) -> FloatingPointError:
        """The error of a row whose logits are not finite; its memory is erased."""
        position = self._read[row] - 1
        self.model.free_row(row, erase=True)
        self._read[row] = self._given[row] = 0
        return not_finite(self.name, position)

    def keep(self, row: int, length: int) -> None:
        if self.needs_hidden:  # its own drafts are read again, with the target's states
            length = min(length, self._given[row])
        if length < self._read[row]:
            self.model.rollback_row(row, length)
            self._read[row] = length


@dataclass(slots=True)
class _Growing:
    """A draft that is still growing."""

    wanted: Request
    reads: Extension  # what the model reads next
    logits: list[torch.Tensor] = field(default_factory=list)  # [C] each
    choices: list[Choice] = field(default_factory=list)
    finite: bool = True

    @property
    def ends(self) -> bool:
        """Whether the draft is complete."""
        stop = self.wanted.stop
        if not self.finite or len(self.choices) == self.wanted.length:
            return True
        if stop is None:
            return False
        stop.tell(self.logits[-1], self.choices[-1])
        return stop()


def in_rows(drafter: Drafter) -> RowDrafter:
    """Wrap `drafter` so that it drafts for many texts at once.

    Raises:
        ValueError: this kind of drafter drafts for one text at a time.
    """
    if drafter.model is None:
        return LookupInRows(drafter)
    if isinstance(drafter, DraftModel):
        return ModelInRows(drafter)
    raise ValueError(
        f"{drafter.name} drafts for one text at a time: expected lookups, tables or draft models"
    )
