"""Thompson sampling."""

import math
import random
from collections.abc import Sequence

from adaspec_rl.control.baselines.bandit import Bandit
from adaspec_rl.control.checks import check_between
from adaspec_rl.decoding.round import Action


class Thompson(Bandit):
    """The arm whose mean is the largest in a draw from N(mean, `exploration`² / plays).

    Thompson sampling with Gaussian posteriors (Agrawal and Goyal, arXiv:1209.3353, where
    `exploration` is 1). Deviates: every arm is played once before anything is drawn.
    """

    name = "thompson"

    def __init__(
        self,
        max_length: int,
        drafter: int = 0,
        exploration: float = 0.5,
        seed: int = 0,
        arms: Sequence[Action] | None = None,
    ) -> None:
        check_between("exploration", exploration, 0)
        super().__init__(max_length, drafter, arms)
        self._exploration = exploration
        self._random = random.Random(seed)

    def choose(self) -> int:
        if 0 in self.plays:
            return self.plays.index(0)
        scale, spread, draw = self.largest or 1.0, self._exploration, self._random.gauss
        drawn = [draw(m / scale, spread / math.sqrt(n)) for m, n in zip(self.means, self.plays)]
        return drawn.index(max(drawn))
