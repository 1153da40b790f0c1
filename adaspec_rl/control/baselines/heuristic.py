"""A draft length that adapts to the last round."""

from collections.abc import Sequence

import numpy as np

from adaspec_rl.control.baselines.fixed import fixed_lengths
from adaspec_rl.control.checks import check_between
from adaspec_rl.decoding.round import Action, Round


class Heuristic:
    """Two tokens more after a draft that was accepted in full, one less after any other.

    Hugging Face transformers' `num_assistant_tokens_schedule="heuristic"`; with `transient`, its
    `"heuristic_transient"`, which forgets the length after every text. Deviates: no more than
    `max_length` tokens, where transformers knows no limit.
    """

    name = "heuristic"
    observes = None

    def __init__(
        self, max_length: int, drafter: int = 0, start: int = 5, transient: bool = False
    ) -> None:
        check_between("start", start, 1)
        self._actions = fixed_lengths(max_length, drafter)
        self._start = self._length = min(start, max_length)
        self._transient = transient

    def reset(self, prompt: Sequence[int] = (), seed: int = 0) -> None:
        if self._transient:
            self._length = self._start

    def decide(self, observation: np.ndarray | None) -> Action:
        return self._actions[self._length]

    def observe(self, round_: Round) -> None:
        if not round_.drafted:  # there was no room for a draft, so nothing was learned
            return
        if round_.accepted == round_.drafted:
            self._length = min(self._length + 2, len(self._actions) - 1)
        else:
            self._length = max(self._length - 1, 1)
