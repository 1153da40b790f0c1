"""Switching between drafters by a rule: an n-gram lookup where it has much to go by."""

from collections.abc import Sequence

import numpy as np

from adaspec_rl.control.checks import check_between
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.decoding.round import Action, Round


class Switching:
    """The lookup if the text's end has occurred before for `match` tokens or more, else the model.

    The static ensemble that deployments use: prompt lookup first (arXiv:2304.04487), a draft model
    where it finds too little.
    """

    def __init__(
        self,
        *,
        lookup: int,
        model: int,
        match: int = 4,
        lookup_length: int = 8,
        length: int = 3,
        threshold: float = 0.0,
        name: str = "switching",
    ) -> None:
        """`lookup` and `model` are the drafters' numbers, `threshold` is the model's.

        Raises:
            ValueError: settings outside their range.
        """
        check_between("match", match, 1)
        check_between("lookup_length", lookup_length, 1)
        check_between("length", length, 1)
        self.match, self.name = match, name
        self.observes = ObservationSpec(("context",))
        self._place = self.observes.names.index("suffix_match")
        self._scale = self.observes.scales[self._place]
        self._copied = Action(lookup_length, lookup)
        self._drafted = Action(length, model, threshold)

    def reset(self, prompt: Sequence[int] = (), seed: int = 0) -> None:
        pass

    def decide(self, observation: np.ndarray | None) -> Action:
        assert observation is not None
        found = round(2 ** (float(observation[self._place]) * self._scale) - 1)
        return self._copied if found >= self.match else self._drafted

    def observe(self, round_: Round) -> None:
        pass
