"""Draft lengths in a few tiers, as a serving engine chooses them."""

from collections.abc import Sequence

import numpy as np

from adaspec_rl.control.baselines.fixed import fixed_lengths
from adaspec_rl.control.checks import check_between
from adaspec_rl.decoding.round import Action, Round


class SglangTiers:
    """The tier that fits a running average of acceptance lengths.

    SGLang's adaptive speculative decoding (`srt/speculative/adaptive_spec_params.py`, its strategy
    `ema` and its defaults for batch size 1). Every `interval` rounds, after `warmup` rounds, it
    moves up a tier while the average is above the tier - 0.5 + `up`, and down a tier while the
    average is at most the lower tier - 0.5 + `down`. Deviates: one sequence per batch, tiers above
    `max_length` are cut to it, and `ceiling_coeff` is left out, as it is off by default. The state
    persists from text to text.
    """

    name = "sglang_tiers"
    observes = None

    def __init__(
        self,
        max_length: int,
        drafter: int = 0,
        tiers: Sequence[int] = (1, 3, 5, 7),
        rate: float = 0.2,
        up: float = 0.0,
        down: float = -0.25,
        interval: int = 5,
        warmup: int = 10,
    ) -> None:
        if not tiers or min(tiers) < 0:
            raise ValueError(f"expected tiers of at least 0 tokens, got {list(tiers)}")
        check_between("rate", rate, 0, 1)
        check_between("interval", interval, 1)
        check_between("warmup", warmup, 0)
        self._actions = fixed_lengths(max_length, drafter)
        self._tiers = sorted({min(tier, max_length) for tier in tiers})
        self._at = len(self._tiers) // 2
        self._average = self._tiers[self._at] - 1.0  # of accepted tokens; fits the first tier
        self._rate, self._up, self._down = rate, up, down
        self._interval, self._left = interval, warmup + interval

    def reset(self, prompt: Sequence[int] = (), seed: int = 0) -> None:
        pass

    def decide(self, observation: np.ndarray | None) -> Action:
        return self._actions[self._tiers[self._at]]

    def observe(self, round_: Round) -> None:
        self.learn(round_.accepted)

    def learn(self, accepted: float) -> None:
        """Add a round's acceptance length, or the mean of a batch's."""
        if self._tiers[self._at]:
            self._average += self._rate * (accepted - self._average)
        self._left -= 1
        if not self._left:
            self._left = self._interval
            self._move()

    def _move(self) -> None:
        before, last = self._at, len(self._tiers) - 1
        if self._tiers[before] == 0:  # nothing is learned without drafts: try the next tier
            self._at = min(1, last)
            if self._average < 0:  # it began with this tier
                self._average = self._tiers[self._at] - 1.0
            return
        while self._at > 0 and self._average <= _drop(self._tiers[self._at - 1]) + self._down:
            self._at -= 1
        if self._at < before:
            return
        while self._at < last and self._average > self._tiers[self._at] - 0.5 + self._up:
            self._at += 1


def _drop(lower: int) -> float:
    """The average at which `lower` tokens are enough; for 0, one accepted in two rounds."""
    return lower - 0.5 if lower else 0.5
