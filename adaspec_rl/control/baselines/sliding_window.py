"""The draft length with the largest expected speed, from running averages."""

from collections.abc import Sequence

import numpy as np

from adaspec_rl.control.baselines.cost_line import CostLine
from adaspec_rl.control.baselines.fixed import fixed_lengths
from adaspec_rl.control.checks import check_between
from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.decoding.round import Action, Round


class SlidingWindow:
    """Maximises (1 - a^(k+1)) / ((1 - a) cost(k)), where a is the recent acceptance rate.

    This is the closed form of Leviathan et al. (arXiv:2211.17192), who choose k once, from a known
    rate. Deviates: the rate and the seconds of rounds are averaged online over about `span` rounds,
    starting from `prior` and `cost`, and persist from text to text. To learn the cost of plain
    rounds, the first round is plain, and later one in at most 8 `pause` rounds. After `pause`
    rounds without a draft, one token is drafted.
    """

    name = "sliding_window"
    observes = None

    def __init__(
        self,
        max_length: int,
        drafter: int = 0,
        span: float = 20.0,
        prior: float = 0.7,
        cost: CostFeatures = CostFeatures(0.1, 0.02, 0.05),
        pause: int = 32,
    ) -> None:
        check_between("span", span, 1)
        check_between("prior", prior, 0, 1)
        check_between("pause", pause, 1)
        self._actions = fixed_lengths(max_length, drafter)
        self._span, self._pause = span, pause
        self._accepted, self._reached = prior, 1.0  # averages per round
        self._costs = CostLine(max_length, cost, span)
        self._length = 0
        self._idle = 0  # rounds since the last draft
        self._due = 0  # rounds until a plain one

    def reset(self, prompt: Sequence[int] = (), seed: int = 0) -> None:
        pass

    def decide(self, observation: np.ndarray | None) -> Action:
        if self._due <= 0:
            return self._actions[0]
        return self._actions[1 if self._idle >= self._pause else self._length]

    def observe(self, round_: Round) -> None:
        self._costs.observe(round_.drafted, round_.seconds)
        if round_.drafted:
            self._idle, self._due = 0, self._due - 1
            self._accepted += (round_.accepted - self._accepted) / self._span
            self._reached += (round_.reached - self._reached) / self._span
        else:
            self._idle += 1
            self._due = self._pause * min(self._costs.seen[0], 8)
        self._choose(self._accepted / self._reached)

    def _choose(self, rate: float) -> None:
        offset, slope = self._costs.fit()
        tokens = power = 1.0
        best, self._length = 1 / self._costs.plain if self._costs.plain else 0.0, 0
        for k in range(1, len(self._actions)):
            power *= rate
            tokens += power  # (1 - a^(k+1)) / (1 - a), also where a is 1
            if tokens / (offset + slope * k) > best:
                best, self._length = tokens / (offset + slope * k), k
