"""The loops that write one text, or many texts side by side."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

from adaspec_rl.control.batch_controller import Load
from adaspec_rl.control.batch_generation import RowsObserver
from adaspec_rl.control.guard import charge, looks
from adaspec_rl.control.stream_observer import StreamObserver
from adaspec_rl.decoding.batch import Batch
from adaspec_rl.decoding.round import Round
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.session import LiveSession
from adaspec_rl.decoding.text import DecodingRules, Text
from adaspec_rl.decoding.verification import Coupled, Greedy
from adaspec_rl.interop.custom_generate.policies import Policy
from adaspec_rl.interop.custom_generate.prepared import Prepared
from adaspec_rl.interop.custom_generate.processing import of_row
from adaspec_rl.interop.custom_generate.rule import Processed

Told = Callable[[int, Sequence[int]], None]  # gets a row's new tokens


@dataclass(frozen=True, slots=True)
class Wanted:
    """The requested texts."""

    prompts: Sequence[Sequence[int]]  # without padding
    padded: torch.Tensor  # [B, n], as in transformers
    max_length: int  # padding included
    sampling: Sampling
    seeds: Sequence[int]
    processors: LogitsProcessorList
    criteria: StoppingCriteriaList
    goes_on: bool = False  # ended texts continue until all texts have ended
    keep_scores: bool = False
    keep_logits: bool = False

    @property
    def rules(self) -> DecodingRules:
        """Decoding rules without end tokens, since the criteria decide where a text ends."""
        room = self.max_length - self.padded.shape[1]
        return DecodingRules(frozenset(), room, self.sampling, "coupled")

    def rule(self, row: int, text: Text) -> Processed:
        """The verification rule for a row's text."""
        drafting = text.rule
        assert isinstance(drafting, Greedy | Coupled)
        return Processed(
            drafting,
            self.padded[row],
            self.max_length,
            of_row(self.processors, row, len(self.prompts)),
            self.criteria,
            goes_on=self.goes_on,
            keep_scores=self.keep_scores,
            keep_logits=self.keep_logits,
        )


@dataclass(slots=True)
class Written:
    """A written text."""

    tokens: list[int]  # without the prompt
    rule: Processed
    rounds: list[Round] = field(default_factory=list)


def write(prepared: Prepared, policy: Policy, wanted: Wanted, told: Told) -> list[Written]:
    """Write all texts; `told` gets new tokens as they come."""
    if len(wanted.prompts) == 1:
        return [_write_one(prepared, policy, wanted, told)]
    return _Side(prepared, policy, wanted, told).write()


def _write_one(prepared: Prepared, policy: Policy, wanted: Wanted, told: Told) -> Written:
    controller, prompt, seed = policy.single, wanted.prompts[0], wanted.seeds[0]
    spec = controller.observes
    rules = wanted.rules
    session = LiveSession(
        prepared.target,
        prepared.drafters,
        max_new_tokens=rules.max_new_tokens,
        sampling=rules.sampling,
        verification=rules.verification,
        survival=policy.survival,
    )
    session.start(prompt, seed, signals=spec is not None and spec.needs_signals)
    session.text.rule = rule = wanted.rule(0, session.text)
    controller.reset(prompt, seed)
    observer = None
    if spec is not None:
        observer = StreamObserver(spec, policy.costs(1, len(prompt)))
        observer.start(prompt, session.forecast)
    written = Written([], rule)
    while session.finished is None and not rule.finished:
        looked, began = looks(controller), time.perf_counter()
        action = controller.decide(observer.observation() if observer and looked else None)
        if looked:
            charge(controller, time.perf_counter() - began)
        played = session.step(action)
        controller.observe(played)
        if observer:
            observer.update(played)
        written.rounds.append(played)
        told(0, played.tokens)
    written.tokens = session.tokens
    return written


class _Side:
    """Texts side by side, one per row."""

    def __init__(self, prepared: Prepared, policy: Policy, wanted: Wanted, told: Told) -> None:
        rows = len(wanted.prompts)
        spec = policy.batch.observes
        self._policy, self._wanted, self._told = policy, wanted, told
        self._batch = Batch(
            prepared.target,
            prepared.drafters,
            rows,
            rules=wanted.rules,
            survival=policy.survival,
            signals=spec is not None and spec.needs_signals,
        )
        self._observer = None
        if spec is not None:
            self._observer = RowsObserver(spec, rows, self._batch, policy.costs)
        policy.batch.reset(rows)
        self._written = [self._admit(row) for row in range(rows)]

    def _admit(self, row: int) -> Written:
        prompt, seed = self._wanted.prompts[row], self._wanted.seeds[row]
        assert self._batch.admit(prompt, seed) == row
        text = self._batch.text(row)
        text.rule = rule = self._wanted.rule(row, text)
        self._policy.batch.admit(row, prompt, seed)
        if self._observer:
            self._observer.start(row, prompt)
        return Written([], rule)

    def write(self) -> list[Written]:
        while rows := self._open():
            self._play(rows)
        for row, written in enumerate(self._written):
            written.tokens = self._batch.text(row).tokens
        return self._written

    def _open(self) -> list[int]:
        """Rows that continue; with `goes_on`, up to the place where the last text ended."""
        rules = [written.rule for written in self._written]
        going = [row for row in self._batch.taken if self._batch.text(row).finished is None]
        if self._wanted.goes_on and all(rule.ended is not None for rule in rules):
            last = max(rule.ended for rule in rules if rule.ended is not None)
            return [row for row in going if rules[row].length < last]
        return [row for row in going if not rules[row].finished]

    def _play(self, rows: list[int]) -> None:
        controller, batch = self._policy.batch, self._batch
        before = time.perf_counter()
        seen = None
        if self._observer and controller.looks:
            seen = self._observer.observation(rows)
        actions = controller.decide(rows, seen, Load(len(rows), context=batch.context(rows)))
        decided = time.perf_counter() - before
        allot = controller.allot if controller.allots else None
        played = batch.step(dict(zip(rows, actions)), allot)
        for error in played.errors.values():
            raise error
        seconds = played.seconds + decided
        controller.observe(rows, [played.rounds[row] for row in rows], seconds)
        if self._observer:
            self._observer.update(played.rounds)
        for row in rows:
            self._written[row].rounds.append(played.rounds[row])
            self._told(row, played.rounds[row].tokens)
