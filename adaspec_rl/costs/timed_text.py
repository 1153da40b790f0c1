"""A text on which the parts of a round are timed, alone and in whole rounds."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from adaspec_rl.control.learned import Actor, LearnedPolicy
from adaspec_rl.control.observation import CostFeatures, ObservationSpec
from adaspec_rl.control.stream_observer import StreamObserver
from adaspec_rl.costs.estimates import TALLEST, Kind, Timings, bushy
from adaspec_rl.decoding.draft import Draft
from adaspec_rl.decoding.drafters import Drafter, EarlyExit, NgramLookup, summon
from adaspec_rl.decoding.drafters.drafter import Stop
from adaspec_rl.decoding.drafters.hidden_state import unknown_features
from adaspec_rl.decoding.round import FALLBACK, Action
from adaspec_rl.decoding.session import LiveSession
from adaspec_rl.decoding.stopping import RunningSurvival, ThresholdStop
from adaspec_rl.decoding.token_sequence import TokenSequence
from adaspec_rl.decoding.verification import Verification, new_verification
from adaspec_rl.engine.language_model import LanguageModel

NEVER = 0.0  # a threshold that stops no draft, although all estimates are made
SPAN = 48  # tokens written at a context length before the text counts as too long


class SureLookup(NgramLookup):
    """A lookup that always finds as many tokens as requested."""

    def propose(
        self, sequence: TokenSequence, length: int, rule: Verification, stop: Stop | None = None
    ) -> Draft:
        draft = super().propose(sequence, length, rule, stop)
        lacking = sequence.on_device[-1:].expand(length - len(draft))
        if not len(lacking):
            return draft
        if isinstance(stop, ThresholdStop):
            stop.running.chances += [1.0] * (length - len(stop.running.chances))
        return Draft(torch.cat([draft.tokens, lacking]))


def endless(session: LiveSession, max_length: int) -> LiveSession:
    """A session of the same models whose texts never end early and whose lookups always succeed."""
    return LiveSession(
        session.target,
        [SureLookup() if isinstance(model, NgramLookup) else model for model in session.models],
        max_new_tokens=SPAN + max_length + 1,
        sampling=session.sampling,
        verification=session.verification,
        survival=session.survival,
        clock=session.clock,
    )


def smallest_context(session: LiveSession) -> int:
    """The most tokens that the target and every drafter can hold."""
    return min([session.target.context_length, *(m.context_length for m in session.models)])


class TimedText:
    """A text after a prompt of one length; restarts when it has grown too long."""

    def __init__(self, session: LiveSession, prompt: Sequence[int], spec: ObservationSpec) -> None:
        """`session` comes from `endless`; `spec` is what a policy would observe."""
        self.session, self.prompt, self.spec = session, list(prompt), spec
        self.found = Timings()
        self._budget = min(session.max_new_tokens, smallest_context(session) - len(prompt))
        target = session.target
        self._rule = new_verification(
            session.verification, session.sampling, 0, target.vocab_size, target.device
        )
        period = max(len(prompt) // 2, spec.max_length + 2)
        self._repeating = TokenSequence(stretched(prompt, period) * 2, target.device)
        self._signals = False
        self._policy = _policy(spec)

    @property
    def branching(self) -> list[int]:
        """Numbers of the drafters that draft trees: lookups draft chains."""
        models = self.session.models
        return [n for n, model in enumerate(models) if not isinstance(model, NgramLookup)]

    def start(self, signals: bool = False) -> None:
        """Start the text; drafters read the prompt, which is timed."""
        self._signals = signals
        self.session.start(self.prompt, signals=signals)
        self._observer = StreamObserver(self.spec, CostFeatures(0.1, 0.1, 0.1))
        self._observer.start(self.prompt, self.session.forecast)
        self._lookups = {
            number: NgramLookup()
            for number, model in enumerate(self.session.models)
            if isinstance(model, NgramLookup)
        }
        self._read: dict[int, int] = {}  # by drafter: the text's length when it drafted last
        for number in range(len(self.session.models)):
            summon(self.session.models[number])
            self.found.add(("catch up", number), self._drafting(number, 1))

    def time(self, kind: Kind) -> None:
        """Add one timing of `kind`."""
        if self._budget - len(self.session.tokens) < max(self.spec.max_length, TALLEST) + 2:
            self.start(self._signals)
        name = kind[0]
        if name == "verification":
            target, clock = self.session.target, self.session.clock
            seconds = timed_forward(target, self._text().on_device[None], kind[1], clock)
        elif name == "level":
            seconds = self._level(kind[1], kind[2])
        elif name in ("draft", "stopping"):
            self._catch_up(kind[1])
            seconds = self._drafting(kind[1], kind[2], stops=name == "stopping")
        else:
            seconds = self._playing(kind[1:] if name == "signals" else kind)
        self.found.add(kind, seconds)

    def _playing(self, kind: Kind) -> float:
        """Time a whole round, and then what a policy would do."""
        action = FALLBACK
        if kind[0] == "fallback":
            self.session.step(FALLBACK)  # plain decoding takes one such step after the other
        elif kind[0] == "round":
            self._stand_by(kind[1])
            action = Action(kind[2], kind[1])
        elif kind[0] == "branch":
            self._stand_by(kind[1])
            shape = bushy(kind[2])
            action = Action(shape.depth, kind[1], tree=shape)
        played = self.session.step(action)
        assert action.branches or played.drafted == action.length
        if self._signals or not self.spec.needs_signals:
            clock = self.session.clock
            began = clock()
            self._observer.update(played)
            self._policy.decide(self._observer.observation())
            self.found.add(("policy",), clock() - began)
        return played.seconds

    def _stand_by(self, number: int) -> None:
        """Bring a drafter to where the last round leaves it: it has read all, the target ran since.

        The target's pass drives a drafter's weights out of the processor's cache.
        """
        self._catch_up(number)
        if self.session.models[number].model is not None:
            target, clock = self.session.target, self.session.clock
            timed_forward(target, self._text().on_device[None], 1, clock)

    def _catch_up(self, number: int) -> None:
        """Let a drafter read what other drafters' rounds added, so that this is not timed."""
        if self._read[number] != len(self.session.tokens):
            summon(self.session.models[number])
            self._drafting(number, 1)

    def _drafting(self, number: int, length: int, stops: bool = False) -> float:
        """Time one draft, which the drafter then forgets."""
        drafter, sequence = self._stand(number)
        text, clock = sequence.automaton, self.session.clock
        began = clock()
        stop = None
        if stops:
            survival = self.session.survival[number]
            stop = ThresholdStop(NEVER, RunningSurvival(survival, text, text.tokens[-1]))
        draft = drafter.propose(sequence, length, self._rule, stop)
        draft.tokens[-1].item()  # waits for the device
        seconds = clock() - began
        assert len(draft) == length
        drafter.keep(len(sequence) - 1)
        self._read[number] = len(self.session.tokens)
        return seconds

    def _level(self, number: int, nodes: int) -> float:
        """Time a forward pass of a tree's level; without a model, a chain of as many tokens."""
        self._catch_up(number)
        drafter, sequence = self._stand(number)
        if drafter.model is None:
            return self._drafting(number, nodes)
        tokens, clock = sequence.on_device[None], self.session.clock
        wide = tokens.repeat(1, nodes)[:, :nodes].clamp_max(drafter.model.vocab_size - 1)
        if isinstance(drafter, EarlyExit):
            held = drafter.model.lengths
            began = clock()
            drafter.model.forward(wide, layers=drafter.layers)[0, -1].argmax().item()
            seconds = clock() - began
            drafter.model.rollback(held)
            return seconds
        return timed_forward(drafter.model, wide, nodes, clock)

    def _stand(self, number: int) -> tuple[Drafter, TokenSequence]:
        """A drafter and the text that it drafts after: for a lookup, a text that repeats itself."""
        if number in self._lookups:
            return self._lookups[number], self._repeating
        return self.session.models[number], self._text()

    def _text(self) -> TokenSequence:
        """The text with all its tokens so far."""
        return self.session.sequence


def stretched(prompt: Sequence[int], length: int) -> list[int]:
    """`prompt` repeated, then cut to its last `length` tokens."""
    return (list(prompt) * (length // len(prompt) + 1))[-length:]


def timed_forward(
    model: LanguageModel, tokens: torch.Tensor, width: int, clock: Callable[[], float]
) -> float:
    """Time `model` reading `width` more of `tokens` `[B, W]`, which it then forgets."""
    held = model.lengths
    wide = tokens[:, :width] if width <= tokens.shape[1] else tokens.repeat(1, width)[:, :width]
    more = unknown_features(model, wide)
    began = clock()
    model.extend(wide, **more)[0, -1].argmax().item()  # waits for the device
    seconds = clock() - began
    model.rollback(held)
    return seconds


def _policy(spec: ObservationSpec) -> LearnedPolicy:
    """A policy of the usual size, with random weights."""
    rng = np.random.default_rng(0)
    widths = (len(spec), 64, 64, 16)
    actor = Actor(
        tuple(rng.normal(size=shape).astype(np.float32) for shape in zip(widths, widths[1:])),
        tuple(np.zeros(width, dtype=np.float32) for width in widths[1:]),
    )
    return LearnedPolicy(actor, [FALLBACK] * widths[-1], spec)
