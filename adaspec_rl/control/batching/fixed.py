"""One draft length for all rows."""

from collections.abc import Sequence

import numpy as np

from adaspec_rl.control.batch_controller import Load
from adaspec_rl.control.batching.rule import BatchRule
from adaspec_rl.control.checks import check_between
from adaspec_rl.decoding.round import FALLBACK, Action


class FixedForAll(BatchRule):
    """The same action for all rows in every round.

    Length 0 is plain batched decoding. With a threshold, each row stops its own draft after the
    token at which the estimated survival falls under the threshold.
    """

    def __init__(self, length: int, drafter: int = 0, threshold: float = 0.0) -> None:
        check_between("length", length, 0)
        self._action = Action(length, drafter, threshold) if length else FALLBACK
        by = f"_drafter_{drafter}" if drafter else ""
        until = f"_threshold_{threshold:g}" if threshold else ""
        self.name = f"fixed_{length}{by}{until}" if length else "plain"

    def decide(
        self, rows: Sequence[int], observations: np.ndarray | None, load: Load
    ) -> list[Action]:
        return [self._action] * len(rows)
