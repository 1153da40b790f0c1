"""A guard that lets any controller speculate only while speculation pays."""

import math
from collections.abc import Sequence

import numpy as np

from adaspec_rl.control.controller import Controller
from adaspec_rl.control.step_time import NOISE, StepTime
from adaspec_rl.decoding.round import FALLBACK, Action, Round

SLACK = 0.6  # steps that a spell of probes may lose after one was accepted
RESERVE = 32.0  # the most steps that are put aside for losses to come
FRESH = 32  # tokens in which a step hardly changes
TRUST = 5.0  # steps that a controller known to pay may lose at first
EARNED = 10.0  # steps put aside, above which a dismissed controller is trusted with a new sequence


class Guarded:
    """Plays another controller's actions while they beat autoregressive decoding.

    Gains and losses are measured in autoregressive steps (`StepTime`): a round gains its tokens
    less its seconds, but loses no more than 2 steps, as the rest is noise. A spell of speculation
    has a balance of them, and the guard is in one of three states:

                     the wait is over                    balance >= proof
        ┌─────────┐ ───────────────────> ┌─────────┐ ────────────────────> ┌───────────┐
        │ waiting │                      │ probing │                       │ in charge │
        └─────────┘ <─────────────────── └─────────┘                       └───────────┘
             ^        balance < 0, or < -0.6 once a probe was accepted           │
             └───────────────────────────────────────────────────────────────────┘
                                          balance < 0

    Waiting decodes plainly. Probes draft one token, with the drafter that the controller would use.
    In charge, the controller does as it likes. (Before it is dismissed, the step is measured anew
    if that was some time ago; then the spell begins again at 0.)

    A wait takes `longest` tokens where nothing of the spell was accepted, else `shortest` ones, and
    twice as many each time this happens again. And it always takes until a probe can be afforded:
    a reserve, which `advance` and all that speculation wins go to, pays for all that it loses;
    `allowance` steps a token decoded plainly fill it up. So in total, decoding never falls behind
    `1 - allowance` times autoregressive speed by more than `advance` steps and one round.

    A new sequence may be of another kind. Where more than 10 steps are put aside, the controller is
    in charge of it with 2 steps to lose; where fewer are, a probe comes as soon as it can be
    afforded. All else persists from sequence to sequence.

    The controller observes the rounds that it chose, and no others: no probes, and no plain steps
    of the guard's. Its decision may be overridden, and parts of the text go by without it. A
    fallback of its own choice is always played. The time that the guard takes is not counted.
    """

    def __init__(
        self,
        controller: Controller,
        *,
        allowance: float = 0.005,
        advance: float = 3.0,
        shortest: int = 8,
        longest: int = 40,
        proof: float = 1.5,
        limit: float = 8.0,
        refresh: int = 512,
        trusted: bool = False,
    ) -> None:
        """Called `guarded_` and the other controller's name.

        Args:
            controller: Whom to guard.
            allowance: Share of autoregressive speed that probes may cost in the long run.
            advance: Steps that they may cost beyond that, once.
            shortest: The least tokens from a fallback to the next probe.
            longest: The most, as long as the reserve lasts.
            proof: Steps that probes must win before `controller` is in charge.
            limit: Highest balance of a spell, which is to be lost before a fallback.
            refresh: Tokens without a plain step after which one is taken.
            trusted: `controller` is known to pay, such as a validated policy: it needs no probes,
                is in charge once the 2 plain steps are taken that everything is measured by, and
                has 5 steps more to lose, once.

        Raises:
            ValueError: settings outside their range.
        """
        if not 0 < allowance < 1:
            raise ValueError(f"allowance must be in (0, 1), got {allowance}")
        if not 0 <= advance <= RESERVE:
            raise ValueError(f"advance must be in [0, {RESERVE:g}] steps, got {advance}")
        if not 1 <= shortest <= longest:
            raise ValueError(f"expected 1 <= shortest <= longest, got {shortest} and {longest}")
        if not 0 < proof <= limit:
            raise ValueError(f"expected 0 < proof <= limit, got {proof} and {limit}")
        if refresh < 1:
            raise ValueError(f"refresh must be at least 1 token, got {refresh}")
        self.controller = controller
        self.name = f"guarded_{controller.name}"
        self.observes = controller.observes
        self.allowance, self.shortest, self.longest = allowance, shortest, longest
        self.proof, self.limit = proof, limit
        self.trusted = trusted  # in charge; else waiting, if there is a wait, or probing
        self._wait = 0  # tokens
        self._balance = TRUST if trusted else 0.0  # of this spell
        self._accepted = False  # anything in this spell
        self._interval = shortest  # tokens of the next wait
        self._reserve = advance + self._balance
        self._step = StepTime(refresh)
        self._obeyed = False  # this round is the controller's choice

    def reset(self, prompt: Sequence[int] = (), seed: int = 0) -> None:
        self.controller.reset(prompt, seed)
        self._step.begin()
        if not self.trusted and self._reserve > EARNED:
            self.trusted, self._balance, self._wait = True, NOISE, 0
        self._wait = min(self._wait, self._debt)

    @property
    def _debt(self) -> int:
        """Tokens to decode plainly until the reserve is filled again."""
        return max(0, math.ceil(-self._reserve / self.allowance))

    def decide(self, observation: np.ndarray | None) -> Action:
        self._obeyed = False
        if self._wait or self._step.unknown(self.trusted):
            return FALLBACK
        action = self.controller.decide(observation)
        self._obeyed = self.trusted or (action.length < 2 and not action.branches)
        return action if self._obeyed else Action(1, action.drafter)

    def observe(self, round_: Round) -> None:
        if self._obeyed:
            self.controller.observe(round_)
        if round_.drafted:
            self._accepted |= round_.accepted > 0
            self._count(self._step.gain(len(round_.tokens), round_.seconds, self.limit))
            return
        self._step.add(round_.seconds)
        if self._wait:
            self._wait -= 1
            self._reserve = min(self._reserve + self.allowance, RESERVE)

    def _count(self, gain: float) -> None:
        """Let a round's gain change the state."""
        self._reserve = min(self._reserve + gain, RESERVE)
        self._balance = min(self._balance + gain, self.limit)
        if self._balance == self.limit:
            self._interval = self.shortest
        if self._balance >= self.proof:
            self.trusted = True
        elif self._balance < (-SLACK if self._accepted and not self.trusted else 0.0):
            if self.trusted and self._step.tokens > FRESH:
                self._step.expire()
                self._balance = 0.0
            else:
                self._fall_back()

    def _fall_back(self) -> None:
        wait = self._interval if self._accepted else self.longest
        self._interval = min(2 * wait, self.longest) if self._accepted else self.shortest
        self._wait = max(wait, self._debt)
        self._balance, self.trusted, self._accepted = 0.0, False, False
