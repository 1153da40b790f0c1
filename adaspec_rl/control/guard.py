"""A guard that lets any controller speculate only while speculation pays."""

import math
from collections.abc import Sequence

import numpy as np

from adaspec_rl.control.controller import Controller
from adaspec_rl.control.step_time import NOISE, StepTime
from adaspec_rl.decoding.round import FALLBACK, Action, Round

SLACK = 0.6  # steps that a spell of probes may lose once a probe was accepted
RESERVE = 32.0  # the most steps that are saved for later losses
FRESH = 32  # tokens within which the time of a step hardly changes
TRUST = 5.0  # steps that a controller known to pay may lose at first
EARNED = 10.0  # saved steps above which a dismissed controller is trusted with a new sequence


class Guarded:
    """Plays another controller's actions while they beat autoregressive decoding.

    Gains and losses are measured in autoregressive steps (`StepTime`). A round gains its tokens
    minus its seconds, including what the controller took to observe and decide (`charge`), but
    loses at most 2 steps, as the rest is noise. A fallback that the controller chooses loses the
    time to decide. The balance of a spell of
    speculation is the sum of its gains. The guard is in one of three states:

                     the wait is over                    balance >= proof
        ┌─────────┐ ───────────────────> ┌─────────┐ ────────────────────> ┌───────────┐
        │ waiting │                      │ probing │                       │ in charge │
        └─────────┘ <─────────────────── └─────────┘                       └───────────┘
             ^        balance < 0, or < -0.6 once a probe was accepted           │
             └───────────────────────────────────────────────────────────────────┘
                                          balance < 0

    While waiting, the guard decodes plainly. While probing, it drafts one token per round, with the
    drafter that the controller would use. In charge, the controller acts freely. (Before it is
    dismissed, the step is measured again if that was some time ago; the spell then restarts at 0.)

    If nothing in the spell was accepted, the wait is `longest` tokens. Otherwise it is `shortest`
    tokens, and doubles each time this happens again. A wait also lasts until a probe can be
    afforded. A reserve pays for all losses of speculation: it starts at `advance`, receives all
    gains, and grows by `allowance` steps per token decoded plainly. In total, decoding therefore
    never falls behind `1 - allowance` times autoregressive speed by more than `advance` steps (32
    for a controller that is trusted) and one round.

    A new sequence may be of another kind. If more than 10 steps are saved, the controller is in
    charge of it with 2 steps to lose; if fewer are saved, a probe comes as soon as it can be
    afforded. Everything else persists from sequence to sequence.

    The controller observes only the rounds that it chose: no probes, and none of the guard's plain
    steps. So its decision may be overridden, and parts of the text go by without it. A fallback
    that it chooses is always played. The time that the guard itself takes is not counted.
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
            controller: The controller to guard.
            allowance: Share of autoregressive speed that probes may cost in the long run.
            advance: Steps that probes may cost beyond that, once.
            shortest: The least tokens from a fallback to the next probe.
            longest: The most such tokens, as long as the reserve lasts.
            proof: Steps that probes must win before `controller` is in charge.
            limit: Highest balance of a spell; it must be lost before a fallback.
            refresh: Tokens without a plain step after which one is taken.
            trusted: `controller` is known to pay, such as a validated policy. It needs no probes,
                is in charge after the 2 plain steps that everything is measured by, with 5 steps to
                lose, and the reserve is full, at 32 steps: a policy that gains on one text in three
                would otherwise be in debt after the first two.

        Raises:
            ValueError: a setting is outside its range.
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
        self._reserve = RESERVE if trusted else advance
        self._step = StepTime(refresh)
        self._obeyed = False  # whether this round is the controller's choice
        self._deciding = 0.0  # seconds that the controller took before this round

    def reset(self, prompt: Sequence[int] = (), seed: int = 0) -> None:
        self.controller.reset(prompt, seed)
        self._step.begin()
        if not self.trusted and self._reserve > EARNED:
            self.trusted, self._balance, self._wait = True, NOISE, 0
        self._wait = min(self._wait, self._debt)

    @property
    def looks(self) -> bool:
        """Whether the controller, and not the guard alone, decides the next round."""
        return not self._wait and not self._step.unknown(self.trusted)

    @property
    def _debt(self) -> int:
        """Tokens to decode plainly until the reserve is filled again."""
        return max(0, math.ceil(-self._reserve / self.allowance))

    def charge(self, seconds: float) -> None:
        """Count what observing and deciding took before the coming round."""
        self._deciding = seconds

    def decide(self, observation: np.ndarray | None) -> Action:
        self._obeyed = False
        if not self.looks:
            return FALLBACK
        action = self.controller.decide(observation)
        self._obeyed = self.trusted or (action.length < 2 and not action.branches)
        return action if self._obeyed else Action(1, action.drafter)

    def observe(self, round_: Round) -> None:
        if self._obeyed:
            self.controller.observe(round_)
        deciding, self._deciding = self._deciding, 0.0
        if round_.drafted:
            self._accepted |= round_.accepted > 0
            seconds = round_.seconds + deciding
            self._count(self._step.gain(len(round_.tokens), seconds, self.limit))
            return
        self._step.add(round_.seconds)
        if self._wait:
            self._wait -= 1
            self._reserve = min(self._reserve + self.allowance, RESERVE)
        elif self._obeyed:
            self._count(-min(deciding / self._step.seconds, NOISE))

    def _count(self, gain: float) -> None:
        """Update the state with a round's gain."""
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


def charge(controller: Controller, seconds: float) -> None:
    """Tell a guard what observing and deciding took; other controllers do not ask."""
    if isinstance(controller, Guarded):
        controller.charge(seconds)


def looks(controller: Controller) -> bool:
    """Whether a controller reads the observation before the next round; a guard may not."""
    return not isinstance(controller, Guarded) or controller.looks
