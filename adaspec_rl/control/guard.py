"""A guard that lets any controller speculate only while speculation pays."""

import math
from collections import deque
from collections.abc import Sequence

import numpy as np

from adaspec_rl.control.controller import Controller
from adaspec_rl.decoding.round import FALLBACK, Action, Round

MEASURED = 2  # plain steps that a fresh guard takes before its first probe
REMEMBERED = 5  # latest plain steps, whose median is the autoregressive step
WORST = 2.0  # the most steps that one round can count against speculation: the rest is noise
SLACK = 0.6  # steps that a spell of probes may lose after one was accepted
RESERVE = 32.0  # the most steps that are put aside for losses to come
QUICKER = 0.75  # of a remembered step: what one in a new sequence may take, as far as is known
FRESH = 32  # tokens in which a step hardly changes
DOUBT = 2.0  # steps that a new sequence may lose, were its steps that quick, before one is taken
TRUST = 5.0  # steps that a controller known to pay may lose at first
EARNED = 10.0  # steps put aside, above which a dismissed controller is trusted with a new sequence
AGAIN = 2.0  # steps that it may lose then


class Guarded:
    """Plays another controller's actions while they beat autoregressive decoding.

    Gains and losses are measured in autoregressive steps: a round gains its tokens less its
    seconds. Each spell of speculation begins with probes, drafts of one token by the drafter that
    the other controller would use. When they have won `proof` steps, the other controller is in
    charge; when the spell's balance falls under 0 (during probes, one of which was accepted, under
    -0.6), plain decoding takes over. (If the last plain step is some time ago, a trusted controller
    is not dismissed before another one was measured.)

    Then the guard waits. After a rejected probe `longest` tokens; after a spell that had something
    accepted `shortest` ones, twice as many each time this happens again. And it always waits until
    it can afford a probe: a reserve, which `advance` and all that speculation wins go to, pays for
    all that it loses; `allowance` steps a token decoded plainly fill it up. So in total, decoding
    never falls behind `1 - allowance` times autoregressive speed by more than `advance` steps and
    one round. (Of a round's loss, 2 steps count: beyond that it is taken for noise.)

    A fresh guard first takes 2 plain steps, as it cannot tell gains from losses without them. A new
    sequence may be of another kind. Where more than 10 steps are put aside, the other controller is
    in charge of it with 2 steps to lose; where fewer are, a probe comes as soon as it can be
    afforded.

    A step takes as long as the median of the latest plain rounds, or the very last one if that was
    quicker. One is slipped in after `refresh` tokens without any. Where a sequence begins, the last
    one may have ended with slower steps, so one is slipped in there as well, unless speculation is
    trusted: then as soon as it would lose if steps were a quarter quicker than remembered. All else
    persists from sequence to sequence.

    The other controller observes the rounds that it chose, and no others: no probes, no plain
    steps of the guard's. Its decision may be overridden, and parts of the text go by without it. A
    fallback of its own choice is always played. The time that it takes itself is not counted.
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
        self.proof, self.limit, self.refresh = proof, limit, refresh
        self.trusted = trusted  # the other controller is in charge
        self._balance = TRUST if trusted else 0.0  # of this spell
        self._accepted = False  # anything in this spell
        self._reserve = advance + self._balance
        self._wait = 0  # tokens until the next probe
        self._interval = shortest
        self._plain: deque[float] = deque(maxlen=REMEMBERED)  # seconds
        self._since_plain = 0  # tokens
        self._doubted = False  # the step is remembered from another sequence
        self._credit = 0.0  # what this sequence has won since, were steps quicker
        self._obeyed = False

    def reset(self, prompt: Sequence[int] = (), seed: int = 0) -> None:
        self.controller.reset(prompt, seed)
        self._doubted, self._credit = True, DOUBT
        if not self.trusted:
            self._reconsider()

    def _reconsider(self) -> None:
        """Another text may be of another kind."""
        if self._reserve > EARNED:
            self.trusted, self._balance, self._wait = True, AGAIN, 0
        else:
            self._wait = min(self._wait, self._debt)

    @property
    def _debt(self) -> int:
        """Tokens to decode plainly until the reserve is filled again."""
        return max(0, math.ceil(-self._reserve / self.allowance))

    def decide(self, observation: np.ndarray | None) -> Action:
        self._obeyed = False
        if self._wait or self._must_measure:
            return FALLBACK
        action = self.controller.decide(observation)
        self._obeyed = self.trusted or action.length < 2
        return action if self._obeyed else Action(1, action.drafter)

    @property
    def _must_measure(self) -> bool:
        unsure = self._doubted and (not self.trusted or self._credit < 0)
        return unsure or self._since_plain >= self.refresh or len(self._plain) < MEASURED

    def observe(self, round_: Round) -> None:
        if self._obeyed:
            self.controller.observe(round_)
        if not round_.drafted:
            self._plain.append(round_.seconds)
            self._since_plain, self._doubted = 0, False
            if self._wait:
                self._wait -= 1
                self._reserve = min(self._reserve + self.allowance, RESERVE)
            return
        self._since_plain += len(round_.tokens)
        self._accepted |= round_.accepted > 0
        step = min(sorted(self._plain)[(len(self._plain) - 1) // 2], self._plain[-1])
        won, spent = len(round_.tokens), round_.seconds / step
        gain = max(won - spent, -WORST)
        self._credit = min(self._credit + max(won - spent / QUICKER, -WORST), self.limit)
        self._reserve = min(self._reserve + gain, RESERVE)
        self._balance = min(self._balance + gain, self.limit)
        if self._balance == self.limit:
            self._interval = self.shortest
        if self._balance >= self.proof:
            self.trusted = True
        elif self._balance < (-SLACK if self._accepted and not self.trusted else 0.0):
            if self.trusted and self._since_plain > FRESH:
                self._since_plain, self._balance = self.refresh, 0.0
            else:
                self._fall_back()

    def _fall_back(self) -> None:
        wait = self._interval if self._accepted else self.longest
        self._interval = min(2 * wait, self.longest) if self._accepted else self.shortest
        self._wait = max(wait, self._debt)
        self._balance, self.trusted, self._accepted = 0.0, False, False
