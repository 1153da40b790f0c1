"""What training has reached so far: throughput, draft length, reward."""

from collections import deque
from dataclasses import dataclass, field

import numpy as np


@dataclass(slots=True)
class Window:
    """Rolling sums over the latest steps of all streams."""

    size: int = 1024  # at least this many rounds, once so many were played
    sums: deque[np.ndarray] = field(init=False, default_factory=deque)
    count: float = field(init=False, default=0.0)

    def add(self, rounds: np.ndarray, rewards: np.ndarray) -> None:
        """Add one round of every stream: emitted, drafted, steps `[B, 3]`; rewards `[B]`."""
        self.sums.append(np.array([len(rounds), *rounds.sum(axis=0), rewards.sum()]))
        self.count += len(rounds)
        while self.count - self.sums[0][0] >= self.size:
            self.count -= self.sums.popleft()[0]

    @property
    def speedup(self) -> float:
        """Tokens per autoregressive step: the throughput divided by plain decoding's."""
        total = self._total()
        return float(total[1] / total[3]) if total[3] else 1.0

    @property
    def draft_length(self) -> float:
        """Mean draft length, fallbacks included."""
        return self._mean(2)

    @property
    def reward(self) -> float:
        """Mean reward of a round."""
        return self._mean(4)

    def _total(self) -> np.ndarray:
        return np.sum(self.sums, axis=0) if self.sums else np.zeros(5)

    def _mean(self, column: int) -> float:
        total = self._total()
        return float(total[column] / max(1.0, total[0]))
