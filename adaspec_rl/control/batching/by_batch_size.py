"""A draft length for all rows, chosen by their number."""

from collections.abc import Mapping, Sequence

import numpy as np

from adaspec_rl.control.batch_controller import Load
from adaspec_rl.control.batching.prices import Prices
from adaspec_rl.control.batching.rule import BatchRule
from adaspec_rl.decoding.round import FALLBACK, Action


class LengthByBatchSize(BatchRule):
    """The action that a table holds for the largest of its batch sizes that is not above the load.

    This is vLLM's dynamic speculative decoding (`num_speculative_tokens_per_batch_size`), whose
    table comes from measurements. Deviates: entries also name a drafter.
    """

    name = "length_by_batch_size"

    def __init__(self, table: Mapping[int, Action]) -> None:
        """`table` must begin with batch size 1.

        Raises:
            ValueError: the table does not begin with 1.
        """
        self._sizes = sorted(table)
        if not self._sizes or self._sizes[0] != 1:
            raise ValueError(f"expected a table that begins with 1 row, got {self._sizes}")
        self._actions = [table[size] for size in self._sizes]

    def decide(
        self, rows: Sequence[int], observations: np.ndarray | None, load: Load
    ) -> list[Action]:
        at = int(np.searchsorted(self._sizes, max(1, len(rows)), side="right")) - 1
        return [self._actions[at]] * len(rows)


def length_table(
    survivals: Sequence[np.ndarray], prices: Prices, sizes: Sequence[int], context: float
) -> dict[int, Action]:
    """For each of `sizes`, the fixed length with the most expected tokens per second.

    Args:
        survivals: for each drafter, the recorded chance `[K]` that its first 1, 2, … tokens are all
            accepted.
        context: average number of tokens in a row.
    """
    table = {}
    at = np.array([context])
    for size in sizes:
        rows = np.array([float(size)])
        best, table[size] = size / float(prices.verifying(rows, np.zeros(1), at)[0]), FALLBACK
        for drafter, chances in enumerate(survivals):
            level = float(prices.drafting(drafter, rows, at)[0])
            begins = float(prices.beginning(drafter, rows)[0])
            for length in range(1, len(chances) + 1):
                verified = prices.verifying(rows, size * np.array([float(length)]), at)
                seconds = begins + length * level + float(verified[0])
                rate = size * (1 + chances[:length].sum()) / seconds
                if rate > best:
                    best, table[size] = rate, Action(length, drafter)
    return table
