"""An action, or another controller, chosen by the number of rows."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np

from adaspec_rl.control.batch_controller import BatchController, Load
from adaspec_rl.control.batching.prices import Prices
from adaspec_rl.control.batching.rule import BatchRule
from adaspec_rl.decoding.round import FALLBACK, Action, Round

T = TypeVar("T")


class BySize(Generic[T]):
    """What a table holds for the largest of its batch sizes that is not above the load."""

    def __init__(self, table: Mapping[int, T]) -> None:
        """`table` must begin with batch size 1.

        Raises:
            ValueError: the table does not begin with 1.
        """
        self._sizes = sorted(table)
        if not self._sizes or self._sizes[0] != 1:
            raise ValueError(f"expected a table that begins with 1 row, got {self._sizes}")
        self.entries = [table[size] for size in self._sizes]

    def at(self, rows: int) -> T:
        """The entry for a batch of `rows`."""
        return self.entries[bisect_right(self._sizes, max(1, rows)) - 1]


class LengthByBatchSize(BatchRule):
    """The action that a table holds for the largest of its batch sizes that is not above the load.

    This is vLLM's dynamic speculative decoding (`num_speculative_tokens_per_batch_size`), whose
    table comes from measurements. Deviates: entries also name a drafter.
    """

    name = "length_by_batch_size"

    def __init__(self, table: Mapping[int, Action]) -> None:
        """`table` must begin with batch size 1, else a `ValueError` says so."""
        self._table = BySize(table)

    def decide(
        self, rows: Sequence[int], observations: np.ndarray | None, load: Load
    ) -> list[Action]:
        return [self._table.at(len(rows))] * len(rows)


class ControllerByBatchSize:
    """Another controller at each load: that for the number of rows in the last round.

    A controller that takes over is told the prompts of the texts, and nothing of what came before,
    so that the controllers that do not act take no time.
    """

    def __init__(self, table: Mapping[int, BatchController], name: str = "by_batch_size") -> None:
        """`table` must begin with batch size 1; sizes may share a controller.

        Raises:
            ValueError: the table does not begin with 1, or its controllers observe differently.
        """
        self.name = name
        self._table = BySize(table)
        specs = (one.observes for one in self._table.entries)
        observed = {spec for spec in specs if spec is not None}
        if len(observed) > 1:
            raise ValueError(
                "the controllers of a table observe different features: give all the same ones"
            )
        self.observes = next(iter(observed), None)
        self._texts: dict[int, tuple[Sequence[int], int]] = {}  # each row's prompt and seed
        self.reset(1)

    @property
    def looks(self) -> bool:
        """As the acting controller says."""
        return self._acting.observes is not None and self._acting.looks

    @property
    def allots(self) -> bool:
        """As the acting controller says."""
        return self._acting.allots

    def reset(self, rows: int) -> None:
        self._rows = rows
        self._texts.clear()
        self._acting = self._table.at(rows)
        self._acting.reset(rows)

    def admit(self, row: int, prompt: Sequence[int], seed: int) -> None:
        self._texts[row] = prompt, seed
        self._acting.admit(row, prompt, seed)

    def decide(
        self, rows: Sequence[int], observations: np.ndarray | None, load: Load
    ) -> list[Action]:
        return self._acting.decide(rows, observations, load)

    def allot(self, rows: Sequence[int], survivals: Sequence[Sequence[float]]) -> list[int]:
        return self._acting.allot(rows, survivals)

    def observe(self, rows: Sequence[int], rounds: Sequence[Round], seconds: float) -> None:
        called = self._table.at(len(rows))
        if called is self._acting:
            called.observe(rows, rounds, seconds)
            return
        self._acting = called
        called.reset(self._rows)
        for row in rows:
            called.admit(row, *self._texts[row])


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
