"""Tiers of draft lengths by batch size, as SGLang chooses them."""

from collections.abc import Mapping, Sequence

import numpy as np

from adaspec_rl.control.baselines.sglang_tiers import SglangTiers
from adaspec_rl.control.batch_controller import Load
from adaspec_rl.control.batching.rule import BatchRule
from adaspec_rl.decoding.round import Action, Round

Tiers = tuple[tuple[int, ...], float]  # draft lengths, and `down` of `SglangTiers`
DEFAULT: Mapping[int, Tiers] = {
    1: ((1, 3, 5, 7), -0.25),
    8: ((0, 1, 3), 0.0),
    32: ((0, 1), 0.0),
    64: ((0,), 0.0),
}


class TiersByBatchSize(BatchRule):
    """The tier that fits a running average of the batch's mean acceptance length.

    SGLang's adaptive speculative decoding (`srt/speculative/adaptive_spec_params.py`, its strategy
    `ema` with its defaults): each of a few batch sizes has its own tiers and average, and a round
    uses the batch size nearest to its own. Deviates: batches are not padded first.
    """

    name = "sglang_tiers"

    def __init__(
        self, max_length: int, drafter: int = 0, tiers: Mapping[int, Tiers] = DEFAULT
    ) -> None:
        self._slots = {
            size: SglangTiers(max_length, drafter, tiers=lengths, down=down)
            for size, (lengths, down) in tiers.items()
        }

    def decide(
        self, rows: Sequence[int], observations: np.ndarray | None, load: Load
    ) -> list[Action]:
        return [self._slot(len(rows)).decide(None)] * len(rows)

    def observe(self, rows: Sequence[int], rounds: Sequence[Round], seconds: float) -> None:
        accepted = sum(round_.accepted for round_ in rounds) / len(rounds)
        self._slot(len(rows)).learn(accepted)

    def _slot(self, rows: int) -> SglangTiers:
        return self._slots[min(self._slots, key=lambda size: abs(size - rows))]
