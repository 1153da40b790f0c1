"""Follows what decoding costs while it decodes: other work on the machine changes it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from adaspec_rl.control.controller import Controller
from adaspec_rl.costs.profile import RoundCosts
from adaspec_rl.decoding.round import FALLBACK, Action, Round

DECAY = 0.985  # of what was timed, a round
TRUST = 1.0, 0.1  # rounds that the profile counts for: plain ones and of the longest draft
WIDEST = 3.0  # times the expected seconds: the most that a round counts for
CHANGED = 0.02  # of a plain step: by how much seconds must change before the policy is told


class CostTracking:
    """Shows a policy the present costs in place of those that it was trained with.

    Memory and arithmetic are each taken to be slower than in the profile by a factor, as in
    `RoundCosts.drifted`, and the factors are fitted to the latest rounds. Drafters are taken to
    cost what the profile says. Rounds with token trees are not timed.
    """

    def __init__(self, policy: Controller, costs: RoundCosts) -> None:
        """`policy` must observe costs, and `costs` are those of its profile."""
        assert policy.observes is not None
        self.policy, self.observes, self.name = policy, policy.observes, policy.name
        self._costs, self._action = costs, FALLBACK
        places = [self.observes.names.index(name) for name, _ in self.observes.table()["cost"]]
        self._places = slice(places[0], places[-1] + 1)
        self._scales = np.asarray(self.observes.scales[self._places], dtype=np.float32)
        plain = costs.verification[0]
        self._beyond = [max(0.0, seconds - plain) for seconds in costs.verification]
        self._line = _Line(plain, self._beyond[-1])
        self._told = 0.0, 0.0  # seconds of a plain step and of the widest forward, as last told
        self._tell()

    def reset(self, prompt: Sequence[int] = (), seed: int = 0) -> None:
        self.policy.reset(prompt, seed)

    def decide(self, observation: np.ndarray | None) -> Action:
        assert observation is not None, "a policy that tracks costs needs its observation"
        seen = observation.copy()
        seen[self._places] = self._values
        self._action = self.policy.decide(seen)
        return self._action

    def observe(self, round_: Round) -> None:
        self.policy.observe(round_)
        if self._action.branches:
            return
        self._line.add(self._beyond[round_.drafted], round_.seconds - self._beside(round_))
        self._tell()

    def _beside(self, round_: Round) -> float:
        """Seconds of a round beside the target's forward, according to the profile."""
        costs, drafter = self._costs, round_.drafter
        if not round_.drafted:
            return costs.autoregressive_step - costs.verification[0]
        step = costs.draft_step[drafter]
        step += costs.stopping_step[drafter] if self._action.stops else 0.0
        return step * round_.drafted + costs.overhead[drafter]

    def _tell(self) -> None:
        """Compute the features of the group `cost`."""
        costs, known = self._costs, self._costs.features()
        unit = self._line.base + costs.autoregressive_step - costs.verification[0]
        widest = self._line.base + self._line.rise * self._beyond[-1]
        changes = (abs(now - told) for now, told in zip((unit, widest), self._told))
        if max(changes) <= CHANGED * unit:
            return
        self._told = unit, widest
        scale = costs.autoregressive_step / unit
        features = replace(
            known,
            draft_step=known.draft_step * scale,
            verification_step=known.verification_step * self._line.rise * scale,
            overhead=known.overhead * scale,
            other_draft_steps=tuple(step * scale for step in known.other_draft_steps),
            trees=tuple(step * scale for step in known.trees),
        )
        self._values = features.values()[: len(self._scales)] / self._scales


class _Line:
    """A forward's seconds over what the profile has beyond a plain one's, the latest rounds first.

    Attributes:
        base: seconds of a plain step's forward.
        rise: what a wider one takes beyond it now, divided by what it does in the profile.
    """

    def __init__(self, plain: float, widest: float) -> None:
        """The profile's seconds of a plain step's forward, and of the widest one beyond it."""
        ends = ((0.0, plain), (widest, plain + widest))
        self._prior = [
            sum(part) for part in zip(*(_moments(x, y, w) for (x, y), w in zip(ends, TRUST)))
        ]
        self._timed = [0.0] * 5
        self._fit()

    def add(self, beyond: float, seconds: float) -> None:
        """Add a round."""
        expected = self.base + self.rise * beyond
        seconds = min(max(seconds, expected / WIDEST), expected * WIDEST)
        latest = _moments(beyond, seconds)
        self._timed = [DECAY * known + new for known, new in zip(self._timed, latest)]
        self._fit()

    def _fit(self) -> None:
        weight, x, xx, y, xy = (a + b for a, b in zip(self._timed, self._prior))
        spread = weight * xx - x * x
        self.rise = max(0.0, (weight * xy - x * y) / spread) if spread > 0 else 0.0
        self.base = max((y - self.rise * x) / weight, y / weight / WIDEST)


def _moments(x: float, y: float, weight: float = 1.0) -> tuple[float, float, float, float, float]:
    return weight, weight * x, weight * x * x, weight * y, weight * x * y
