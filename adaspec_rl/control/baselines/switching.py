"""Switches between drafters by a rule: an n-gram lookup if it has a long match, else a model."""

from collections.abc import Sequence

import numpy as np

from adaspec_rl.control.checks import check_between
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.decoding.round import Action, Round


class Switching:
    """Drafts by lookup if the text's end has occurred before for at least `match` tokens.

    Otherwise the model drafts. This is the static combination used in deployments: prompt lookup
    first (arXiv:2304.04487), and a draft model where the lookup finds too little.
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
        """`lookup` and `model` are drafter numbers; `threshold` applies to the model.

        Raises:
            ValueError: a setting is outside its range.
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
