"""One action for all rows, learned online from the tokens and seconds of rounds."""

from collections.abc import Sequence

import numpy as np

from adaspec_rl.control.baselines.by_match import Rotating
from adaspec_rl.control.batch_controller import Load
from adaspec_rl.control.batching.rule import BatchRule
from adaspec_rl.decoding.round import Action, Round


class BanditForAll(BatchRule):
    """UCB1 over actions that all rows play; a round is worth its tokens per second.

    There is one bandit for each power of two of rows, as the best action depends on their number.
    """

    name = "bandit_for_all"

    def __init__(self, arms: Sequence[Action], exploration: float = 0.15) -> None:
        """`arms` are the actions to choose from besides plain decoding."""
        self._arms, self._exploration = [Action(0), *arms], exploration
        self._bandits: dict[int, Rotating] = {}

    def _bandit(self, rows: int) -> Rotating:
        size = rows.bit_length()
        if size not in self._bandits:
            self._bandits[size] = Rotating(1, 0, self._exploration, self._arms)
        return self._bandits[size]

    def decide(
        self, rows: Sequence[int], observations: np.ndarray | None, load: Load
    ) -> list[Action]:
        return [self._bandit(len(rows)).decide(None)] * len(rows)

    def observe(self, rows: Sequence[int], rounds: Sequence[Round], seconds: float) -> None:
        tokens = tuple(token for round_ in rounds for token in round_.tokens)
        drafted = sum(round_.drafted for round_ in rounds)
        whole = Round(rounds[0].drafter, drafted, 0, tokens, seconds)
        self._bandit(len(rows)).observe(whole)
