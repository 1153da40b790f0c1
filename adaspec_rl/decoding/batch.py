"""Decodes many texts at once, one per row; each round verifies all of them in one pass."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from adaspec_rl.decoding.draft import Draft
from adaspec_rl.decoding.draft_signals import NO_SIGNALS, chain_signals
from adaspec_rl.decoding.drafters.drafter import Drafter
from adaspec_rl.decoding.drafters.foreseen import Foreseen
from adaspec_rl.decoding.drafters.in_rows import Request, RowDrafter, in_rows
from adaspec_rl.decoding.forecast import Forecast
from adaspec_rl.decoding.round import FALLBACK, Action, Round, check_chain, check_exact
from adaspec_rl.decoding.signals import target_signals
from adaspec_rl.decoding.survival import ProductSurvival, Survival
from adaspec_rl.decoding.text import DecodingRules, DraftStop, Text
from adaspec_rl.decoding.verification.lossy import Judge, distance_of
from adaspec_rl.decoding.verification.rows import Unverified, Verified, verify_rows
from adaspec_rl.engine.extension import Extended, Extension
from adaspec_rl.engine.finite_check import not_finite
from adaspec_rl.engine.language_model import LanguageModel, RowModel
from adaspec_rl.engine.lean_model import LeanModel

# See `BatchController.allot`.
Allot = Callable[[Sequence[int], Sequence[Sequence[float]]], list[int]]


@dataclass(frozen=True, slots=True)
class BatchRound:
    """What one round did, by row. A row that failed is in `errors` and not in `rounds`."""

    rounds: dict[int, Round]
    errors: dict[int, Exception]
    offered: int  # tokens drafted, by all rows
    verified: int  # of those, tokens that the target read
    seconds: float  # without `reading`
    reading: float  # seconds in which the target read the prompts of new texts


@dataclass(slots=True)
class _Row:
    """A text in its row, and its draft while a round is played."""

    text: Text
    unread: bool = True  # the target has not seen the prompt
    action: Action = FALLBACK
    stop: DraftStop | None = None
    draft: Draft | None = None
    signals: np.ndarray | None = None  # of the draft, [k, 4]
    survivals: tuple[float, ...] = ()  # of the draft


class Batch:
    """A target and its drafters, decoding up to `rows` texts side by side.

    Texts join and leave between rounds. Each has its own actions and its own random state, and the
    texts beside it do not change what it becomes. A text that fails ends with its error; the others
    go on.
    """

    def __init__(
        self,
        target: LanguageModel,
        drafters: Sequence[Drafter],
        rows: int,
        *,
        rules: DecodingRules = DecodingRules(),
        survival: Sequence[Survival] | None = None,
        signals: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """
        Args:
            survival: for each drafter, an estimate of the chance that its tokens are accepted.
            signals: whether rounds report signals, which take time to compute.

        Raises:
            ValueError: the target, a drafter or the rule decodes only one text at a time, or `rows`
                is below 1.
        """
        if not isinstance(target, RowModel):
            raise ValueError(
                f"{target.name} runs through transformers, where all texts of a batch have one "
                "length: decode one text at a time"
            )
        if isinstance(rules.verification, Judge):
            raise ValueError(
                f"{rules.verification.name} verifies one text at a time: expected another rule"
            )
        if rows < 1:
            raise ValueError(f"a batch needs at least 1 row, got {rows}")
        self.target, self.rules, self.clock = target, rules, clock
        self.drafters: list[RowDrafter] = [in_rows(drafter) for drafter in drafters]
        self.survival = list(survival or [ProductSurvival() for _ in drafters])
        self.signals = signals
        self._foreseen = Foreseen(drafters, self.survival)
        needs_hidden = any(drafter.needs_hidden for drafter in drafters)
        self._hidden_size: int | None = None
        if needs_hidden:
            assert isinstance(target, LeanModel)
            self._hidden_size = target.architecture.hidden_size
        self._rows: list[_Row | None] = [None] * rows
        target.reset(rows)
        self._resets = target.resets
        for drafter in self.drafters:
            drafter.reset(rows)

    @property
    def free(self) -> list[int]:
        """The rows without a text."""
        return [number for number, row in enumerate(self._rows) if row is None]

    @property
    def taken(self) -> list[int]:
        """The rows with a text."""
        return [number for number, row in enumerate(self._rows) if row is not None]

    def text(self, row: int) -> Text:
        """The text in a row."""
        return self._row(row).text

    def admit(self, prompt: Sequence[int], seed: int = 0) -> int:
        """Put a text into a free row; the target reads the prompt in the next round.

        Returns: the row.

        Raises:
            ValueError: no row is free, or the prompt is not valid (see `Text`).
        """
        if not self.free:
            raise ValueError(f"all {len(self._rows)} rows are taken: wait until a text ends")
        text = Text(prompt, seed, self.target, self.rules, hidden_size=self._hidden_size)
        number = self.free[0]
        self._rows[number] = _Row(text)
        return number

    def leave(self, row: int, *, erase: bool = False) -> None:
        """Free a row. With `erase`, also zero its memory, in case it holds a NaN."""
        self._row(row)
        self._rows[row] = None
        self.target.free_row(row, erase=erase)
        for drafter in self.drafters:
            drafter.start(row)

    def context(self, rows: Sequence[int]) -> float:
        """The average number of tokens in `rows`."""
        return sum(len(self.text(row).sequence) for row in rows) / len(rows)

    def forecast(self, row: int, tables: bool = True) -> Forecast:
        """What the lookup, and the `tables`, would gain now; see `Foreseen`."""
        text = self.text(row)
        return self._foreseen(text.sequence, text.rule, tables)

    def step(self, actions: Mapping[int, Action], allot: Allot | None = None) -> BatchRound:
        """Play one round of the rows in `actions`: draft, allot, verify, commit.

        A row whose text ends stays taken until `leave` is called; a row that fails is freed at
        once.

        Args:
            allot: decides how many drafted tokens of each row are verified; None: all are.

        Raises:
            ValueError: a row has no text or a finished one, or an action names a drafter that does
                not exist.
        """
        for number, action in actions.items():
            self._check(number, action)
        if self.target.resets != self._resets:
            raise RuntimeError(
                f"{self.target.name} was used for something else while a batch was decoded with "
                "it: give each its own model"
            )
        began = self.clock()
        errors: dict[int, Exception] = {}
        playing = {number: self._row(number) for number in actions}
        for number, action in actions.items():
            row = playing[number]
            row.action, row.draft, row.stop = action, None, None
            row.signals, row.survivals = None, ()
        self._read_prompts(playing)
        read = self.clock()
        # On a GPU, estimates while a draft grows would wait for the device at every token.
        estimated = allot is not None and self.target.device.type == "cpu"
        self._fail(self._draft(playing, estimated), errors, playing)
        offered = sum(len(row.draft or ()) for row in playing.values())
        if self.signals or allot is not None:
            for row in playing.values():
                self._estimate(row)
        if allot is not None:
            self._allot(playing, allot)
        verified = sum(len(row.draft or ()) for row in playing.values())
        seen = self._read_drafts(playing)
        self._fail(self._not_finite(playing, seen), errors, playing)
        found = self._verify(playing, seen)
        told = self._target_signals(seen, found)
        made = [
            self._commit(number, row, seen[number], found[number], told.get(number))
            for number, row in playing.items()
        ]
        seconds = self.clock() - read
        rounds = {number: finish(seconds) for number, finish in zip(playing, made)}
        return BatchRound(rounds, errors, offered, verified, seconds, read - began)

    def _check(self, number: int, action: Action) -> None:
        text = self._row(number).text
        if text.finished is not None:
            raise ValueError(
                f"the text in row {number} is finished ({text.finished}): let it leave"
            )
        check_chain(action, "a batch")
        check_exact(action, "a batch")
        if action.length and not 0 <= action.drafter < len(self.drafters):
            raise ValueError(
                f"no drafter number {action.drafter}: expected 0 to {len(self.drafters) - 1}"
            )

    def _row(self, number: int) -> _Row:
        row = self._rows[number] if 0 <= number < len(self._rows) else None
        if row is None:
            raise ValueError(f"row {number} has no text: expected one of {self.taken}")
        return row

    def _fail(
        self, found: Mapping[int, Exception], errors: dict[int, Exception], playing: dict[int, _Row]
    ) -> None:
        for number, error in found.items():
            errors[number] = error
            del playing[number]
            self.leave(number, erase=True)

    def _read_prompts(self, playing: Mapping[int, _Row]) -> None:
        """Let the target read all but the last token of each new text."""
        reading = []
        for number, row in playing.items():
            if not row.unread:
                continue
            row.unread = False
            prompt = row.text.sequence.on_device[:-1]
            if len(prompt):
                states = len(prompt) if self._hidden_size else 0
                reading.append(Extension(number, prompt, 0, states))
        found = self.target.extend_rows(reading) if reading else []
        for part, seen in zip(reading, found):
            if self._hidden_size:
                playing[part.row].text.sequence.know(0, seen.hidden)

    def _draft(self, playing: Mapping[int, _Row], estimated: bool) -> dict[int, Exception]:
        """Draft for all rows, drafter by drafter. Returns what went wrong, by row."""
        errors: dict[int, Exception] = {}
        for number, drafter in enumerate(self.drafters):
            requests = [
                request
                for row_number, row in playing.items()
                if row.action.length
                and row.action.drafter == number
                and (request := self._request(row_number, row, drafter, estimated)) is not None
            ]
            if not requests:
                continue
            for wanted, made in zip(requests, drafter.propose(requests)):
                if isinstance(made, FloatingPointError):
                    errors[wanted.row] = made
                elif len(made):
                    playing[wanted.row].draft = made
        return errors

    def _request(
        self, number: int, row: _Row, drafter: RowDrafter, estimated: bool
    ) -> Request | None:
        text, action = row.text, row.action
        length = text.draft_length(action.length, drafter.context_length)
        if length < 1:
            return None
        row.stop = text.stop(action, self.survival[action.drafter], estimated=estimated)
        return Request(number, text.sequence, length, text.rule, row.stop, self.signals)

    def _estimate(self, row: _Row) -> None:
        """Compute the signals of a row's draft and the estimated survival of its tokens."""
        draft = row.draft
        if draft is None:
            return
        estimated = row.stop and row.stop.running and len(row.stop.running.chances) == len(draft)
        if self.signals or not estimated:
            row.signals = chain_signals(draft)
        row.survivals = row.text.survivals(
            self.survival[row.action.drafter], row.stop, row.signals, draft.tokens.tolist()
        )

    def _allot(self, playing: Mapping[int, _Row], allot: Allot) -> None:
        """Drop the drafted tokens that will not be verified."""
        rows = list(playing)
        survivals = [known_before(playing[number]) for number in rows]
        for number, count in zip(rows, allot(rows, survivals), strict=True):
            row = playing[number]
            if row.draft is None:
                continue
            count = max(0, min(count, len(row.draft)))
            row.draft = row.draft.first(count) if count else None
            row.survivals = row.survivals[:count]
            if row.signals is not None:
                row.signals = row.signals[:count]

    def _read_drafts(self, playing: Mapping[int, _Row]) -> dict[int, Extended]:
        """One forward pass of the target over every row's last token and draft."""
        reading = []
        for number, row in playing.items():
            sequence, drafted = row.text.sequence, len(row.draft or ())
            n = len(sequence)
            if row.draft is not None:
                sequence.buffer[n : n + drafted] = row.draft.tokens
            width = drafted + 1
            states = width if self._hidden_size else 0
            reading.append(Extension(number, sequence.buffer[n - 1 : n + drafted], width, states))
        return dict(zip(playing, self.target.extend_rows(reading))) if reading else {}

    def _not_finite(
        self, playing: Mapping[int, _Row], seen: Mapping[int, Extended]
    ) -> dict[int, Exception]:
        """The errors of rows whose logits are not finite."""
        return {
            number: not_finite(self.target.name, len(row.text.sequence) - 1)
            for number, row in playing.items()
            if not seen[number].finite
        }

    def _verify(
        self, playing: Mapping[int, _Row], seen: Mapping[int, Extended]
    ) -> dict[int, Verified]:
        """How much of every row's draft is accepted."""
        unverified = [
            Unverified(row.text.rule, row.draft, seen[number].logits, len(row.text.sequence))
            for number, row in playing.items()
        ]
        return dict(zip(playing, verify_rows(unverified)))

    def _target_signals(
        self, seen: Mapping[int, Extended], found: Mapping[int, Verified]
    ) -> dict[int, Sequence[float]]:
        """The target's entropy and top probability where each row's next token comes from."""
        if not self.signals or not found:
            return {}
        parts = [target_signals(seen[row].logits[one.accepted]) for row, one in found.items()]
        return dict(zip(found, torch.stack(parts).tolist()))

    def _commit(
        self,
        number: int,
        row: _Row,
        seen: Extended,
        found: Verified,
        told: Sequence[float] | None,
    ) -> Callable[[float], Round]:
        """Keep the accepted tokens. Returns a function that makes the `Round` from its seconds."""
        text, sequence = row.text, row.text.sequence
        n, drafted = len(sequence), len(found.proposed) - 1
        if self._hidden_size:
            sequence.know(n - 1, seen.hidden)
        kept, emitted = text.commit(found.accepted, found.proposed)
        if len(emitted) <= drafted:  # otherwise the target read what the text now has
            self.target.rollback_row(number, len(sequence) - 1)
        if row.action.length:
            self.drafters[row.action.drafter].keep(number, n + kept)
        played = partial(
            Round,
            drafter=row.action.drafter,
            drafted=drafted,
            accepted=kept,
            tokens=emitted,
            rejected=tuple(found.proposed[kept:drafted]),
            distance=distance_of(text.rule, len(emitted)),
        )
        if told is not None:
            drafts = NO_SIGNALS if row.signals is None else row.signals
            log_probs, entropies, margins, choice_margins = map(tuple, drafts.T.tolist())
            played = partial(
                played,
                draft_log_probs=log_probs,
                draft_entropies=entropies,
                draft_margins=margins,
                draft_choice_margins=choice_margins,
                draft_survivals=row.survivals,
                target_entropy=told[0],
                target_top_probability=told[1],
            )
        return lambda seconds: played(seconds=seconds)


def known_before(row: _Row) -> tuple[float, ...]:
    """The estimated survivals that decide which of the row's drafted tokens are verified.

    Where drafts are drawn at random (rejection sampling), the decision to verify a token must not
    depend on which token was drawn. Otherwise fresh draws would replace unlikely ones, and the text
    would no longer have the target's distribution. So each token gets the survival of the tokens
    before it.
    """
    if not row.text.rule.needs_log_probs:
        return row.survivals
    return (1.0, *row.survivals[:-1]) if row.survivals else ()
