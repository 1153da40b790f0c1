"""Stopping by an entropy bound that adapts to acceptance."""

from collections.abc import Sequence

import numpy as np

from adaspec_rl.control.checks import check_between
from adaspec_rl.control.stopping.entropy_bound import EntropyBoundStop
from adaspec_rl.decoding.round import Action, Round


class AdaEdl:
    """Stops by the entropy bound, whose threshold adapts to the acceptance of drafts.

    AdaEDL (arXiv:2410.18351). The threshold moves as in Draft & Verify (arXiv:2309.08168): up by
    `step` while the smoothed share of accepted tokens is under `target`, else down; the threshold
    is smoothed too. Deviates: the share counts all drafted tokens, including those after a
    rejection, and the threshold stays in [0, 1]. It persists from text to text.
    """

    name = "adaedl"
    observes = None

    def __init__(
        self,
        max_length: int,
        drafter: int = 0,
        gamma: float = 0.2,
        target: float = 0.9,
        start: float = 0.4,
        step: float = 0.01,
        share_decay: float = 0.5,
        threshold_decay: float = 0.9,
    ) -> None:
        check_between("max_length", max_length, 1)
        check_between("target", target, 0, 1)
        check_between("step", step, 0)
        check_between("share_decay", share_decay, 0, 1)
        check_between("threshold_decay", threshold_decay, 0, 1)
        self.rule = EntropyBoundStop(start, gamma)
        self._action = Action(max_length, drafter, rule=self.rule)
        self._target, self._share, self._share_decay = target, target, share_decay
        self._move = step * (1 - threshold_decay)

    def reset(self, prompt: Sequence[int] = (), seed: int = 0) -> None:
        pass

    def decide(self, observation: np.ndarray | None) -> Action:
        return self._action

    def observe(self, round_: Round) -> None:
        if not round_.drafted:
            return
        share = round_.accepted / round_.drafted
        self._share += (1 - self._share_decay) * (share - self._share)
        move = self._move if self._share < self._target else -self._move
        self.rule.threshold = min(max(self.rule.threshold + move, 0.0), 1.0)
