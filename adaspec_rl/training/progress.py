"""What training has reached so far: throughput, draft length, reward, and the rate λ."""

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class Window:
    """Rolling sums over the latest rounds."""

    autoregressive_step: float  # seconds
    size: int = 1024
    rounds: deque[tuple[int, int, float, float]] = field(init=False)

    def __post_init__(self) -> None:
        self.rounds = deque(maxlen=self.size)

    def add(self, emitted: int, drafted: int, seconds: float, reward: float) -> None:
        """Take in one round."""
        self.rounds.append((emitted, drafted, seconds, reward))

    @property
    def speedup(self) -> float:
        """Tokens per autoregressive step's time: the throughput over autoregressive decoding's."""
        seconds = sum(item[2] for item in self.rounds)
        emitted = sum(item[0] for item in self.rounds)
        return emitted * self.autoregressive_step / seconds if seconds else 1.0

    @property
    def draft_length(self) -> float:
        """Mean draft length, fallbacks included."""
        return self._mean(1)

    @property
    def reward(self) -> float:
        """Mean reward of a round."""
        return self._mean(3)

    def _mean(self, column: int) -> float:
        return sum(item[column] for item in self.rounds) / max(1, len(self.rounds))
