"""Several bandits; the length of the text's earlier match selects the one that decides."""

from bisect import bisect
from collections.abc import Sequence

import numpy as np

from adaspec_rl.control.baselines.ucb1 import Ucb1
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.decoding.round import Action, Round

BOUNDS = (1, 2, 5)  # lengths of the match at which the next bandit begins


class Rotating(Ucb1):
    """UCB1 that takes turns among its unplayed arms, so as not to insist on an overridden one."""

    _turn = 0

    def choose(self) -> int:
        unplayed = [arm for arm, plays in enumerate(self.plays) if not plays]
        if not unplayed:
            return super().choose()
        self._turn += 1
        return unplayed[self._turn % len(unplayed)]


class ByMatch:
    """Learns online which action pays, depending on how much a lookup has to go by.

    A contextual bandit. Its context is the length of the longest earlier occurrence of the text's
    end, cut at `BOUNDS`, with UCB1 in each part. What was learned persists from text to text.
    """

    name = "by_match"

    def __init__(
        self, arms: Sequence[Action], lookups: Sequence[int] = (), exploration: float = 0.15
    ) -> None:
        """`arms` come on top of plain decoding; `lookups` are drafters that need a match.

        Raises:
            ValueError: a setting is outside its range.
        """
        self.observes = ObservationSpec(("context",))
        self._place = self.observes.names.index("suffix_match")
        self._scale = self.observes.scales[self._place]
        plain = Action(0)
        without = [arm for arm in arms if arm.drafter not in lookups]
        self.bandits = [
            Rotating(1, 0, exploration, [plain, *(arms if part else without)])
            for part in range(len(BOUNDS) + 1)
        ]
        self._chosen = self.bandits[0]

    def reset(self, prompt: Sequence[int] = (), seed: int = 0) -> None:
        pass

    def decide(self, observation: np.ndarray | None) -> Action:
        assert observation is not None
        found = round(2 ** (float(observation[self._place]) * self._scale) - 1)
        self._chosen = self.bandits[bisect(BOUNDS, found)]
        return self._chosen.decide(None)

    def observe(self, round_: Round) -> None:
        self._chosen.observe(round_)
