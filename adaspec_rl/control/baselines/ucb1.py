"""UCB1: optimism in the face of uncertainty."""

import math
from collections.abc import Sequence

from adaspec_rl.control.baselines.bandit import Bandit
from adaspec_rl.control.checks import check_between
from adaspec_rl.decoding.round import Action


class Ucb1(Bandit):
    """The arm of the largest mean + `exploration` sqrt(2 ln t / plays). Without randomness.

    Auer et al., Finite-time analysis of the multiarmed bandit problem (2002), where `exploration`
    is 1.
    """

    name = "ucb1"

    def __init__(
        self,
        max_length: int,
        drafter: int = 0,
        exploration: float = 1.0,
        arms: Sequence[Action] | None = None,
    ) -> None:
        check_between("exploration", exploration, 0)
        super().__init__(max_length, drafter, arms)
        self._exploration = exploration

    def choose(self) -> int:
        if 0 in self.plays:
            return self.plays.index(0)
        scale = self.largest or 1.0
        width = self._exploration * math.sqrt(2 * math.log(sum(self.plays)))
        bounds = [mean / scale + width / math.sqrt(n) for mean, n in zip(self.means, self.plays)]
        return bounds.index(max(bounds))
