"""What all bandits share: arms, and the worth of a round."""

from collections.abc import Sequence

import numpy as np

from adaspec_rl.control.baselines.fixed import fixed_lengths
from adaspec_rl.decoding.round import Action, Round


class Bandit:
    """Plays arms, which are actions, and learns which one is worth most.

    A round is worth its tokens per second; the reward is that worth divided by the largest worth so
    far. What was learned persists from text to text. With draft lengths as arms this is BanditSpec
    (arXiv:2505.15141). Deviates: BanditSpec counts rounds, as its arms cost alike, and starts anew
    with every prompt.
    """

    name: str
    observes = None

    def __init__(
        self, max_length: int, drafter: int = 0, arms: Sequence[Action] | None = None
    ) -> None:
        """Without `arms`, the arms are the fallback and every draft length."""
        self.arms = fixed_lengths(max_length, drafter) if arms is None else tuple(arms)
        if not self.arms:
            raise ValueError("a bandit needs at least 1 arm, got none")
        self.plays = [0] * len(self.arms)
        self.means = [0.0] * len(self.arms)  # of worth, by arm
        self.largest = 0.0  # worth
        self._arm = 0

    def reset(self, prompt: Sequence[int] = (), seed: int = 0) -> None:
        pass

    def decide(self, observation: np.ndarray | None) -> Action:
        self._arm = self.choose()
        return self.arms[self._arm]

    def observe(self, round_: Round) -> None:
        arm, action = self._arm, self.arms[self._arm]
        if action.length and not round_.drafted:  # there was no room to play the arm
            return
        worth = self.worth(action, round_)
        self.largest = max(self.largest, worth)
        self.plays[arm] += 1
        self.means[arm] += (worth - self.means[arm]) / self.plays[arm]
        self.learn(arm, worth / self.largest if worth else 0.0)

    def worth(self, action: Action, round_: Round) -> float:
        """How good a round was: 0 or more, in any unit."""
        return len(round_.tokens) / round_.seconds

    def choose(self) -> int:
        """The number of the arm to play."""
        raise NotImplementedError

    def learn(self, arm: int, reward: float) -> None:
        """Use a reward in [0, 1] further; `plays` and `means` already include it."""
