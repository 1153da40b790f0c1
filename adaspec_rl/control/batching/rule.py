"""Defaults that batch controllers share."""

from collections.abc import Sequence

from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.decoding.round import Round


class BatchRule:
    """Observes nothing, learns nothing and verifies every draft in full."""

    observes: ObservationSpec | None = None
    looks: bool = True
    allots: bool = False

    def reset(self, rows: int) -> None:
        pass

    def admit(self, row: int, prompt: Sequence[int], seed: int) -> None:
        pass

    def allot(self, rows: Sequence[int], survivals: Sequence[Sequence[float]]) -> list[int]:
        return [len(survival) for survival in survivals]

    def observe(self, rows: Sequence[int], rounds: Sequence[Round], seconds: float) -> None:
        pass
