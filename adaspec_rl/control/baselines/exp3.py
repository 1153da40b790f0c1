"""A bandit that makes no assumptions about its rewards."""

import math
import random
from collections.abc import Sequence

from adaspec_rl.control.baselines.bandit import Bandit
from adaspec_rl.control.checks import check_between
from adaspec_rl.decoding.round import Action


class Exp3(Bandit):
    """Random arms, by exponential weights; a share `exploration` of rounds is uniform.

    Auer et al., The nonstochastic multiarmed bandit problem (2002).
    """

    name = "exp3"

    def __init__(
        self,
        max_length: int,
        drafter: int = 0,
        exploration: float = 0.1,
        seed: int = 0,
        arms: Sequence[Action] | None = None,
    ) -> None:
        check_between("exploration", exploration, 0, 1)
        super().__init__(max_length, drafter, arms)
        self._exploration = exploration
        self._random = random.Random(seed)
        self._logits = [0.0] * len(self.arms)
        self._chances = [1 / len(self.arms)] * len(self.arms)

    def choose(self) -> int:
        return self._random.choices(range(len(self.arms)), self._chances)[0]

    def learn(self, arm: int, reward: float) -> None:
        count, share = len(self.arms), self._exploration
        self._logits[arm] += share * reward / (self._chances[arm] * count)
        top = max(self._logits)
        weights = [math.exp(logit - top) for logit in self._logits]
        rest = (1 - share) / sum(weights)
        self._chances = [rest * weight + share / count for weight in weights]
