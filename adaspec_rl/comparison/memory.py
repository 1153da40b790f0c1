"""How much of the device's memory a generation takes."""

from collections.abc import Sequence
from dataclasses import dataclass

from adaspec_rl.engine.memory import MIB, PeakMemory, weight_bytes
from adaspec_rl.pairs.pair import Pair, own_model


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Memory of one generation; its peak counts drafters that earlier ones left on the device."""

    peak: int | None  # bytes; None: not known on this system
    moves: int  # of draft models to the device
    moved: int  # bytes


class MemoryMeter:
    """Measures the memory of a pair's generations, one after another."""

    def __init__(self, pair: Pair) -> None:
        self._peak = PeakMemory(pair.target.device)
        self._offloading = pair.offloading
        self._moves = self._moved = 0

    def begin(self) -> None:
        """Call when a generation begins."""
        self._peak.begin()
        if self._offloading is not None:
            self._moves, self._moved = self._offloading.moves, self._offloading.moved

    def read(self) -> MemoryUse:
        """The memory taken since `begin`."""
        peak, moving = self._peak.bytes(), self._offloading
        if moving is None:
            return MemoryUse(peak, 0, 0)
        return MemoryUse(peak, moving.moves - self._moves, moving.moved - self._moved)


@dataclass(frozen=True, slots=True)
class MemoryFigures:
    """Memory of all generations of a method."""

    peak_memory_mib: float | None  # the highest; None: not measured
    drafter_moves: int  # of draft models to the device
    drafter_moved_mib: float


def memory_figures(uses: Sequence[MemoryUse | None]) -> MemoryFigures:
    """The figures of those generations that were measured."""
    known = [use for use in uses if use is not None]
    peak = max((use.peak for use in known if use.peak is not None), default=None)
    return MemoryFigures(
        None if peak is None else peak / MIB,
        sum(use.moves for use in known),
        sum(use.moved for use in known) / MIB,
    )


def models_memory(pair: Pair) -> dict[str, float]:
    """MiB of each model's weights; for draft models, without those shared with the target."""
    target = pair.target
    found = {target.name: weight_bytes(target.weights) / MIB}
    for drafter in pair.drafters:
        if model := own_model(drafter, target):
            found[drafter.name] = weight_bytes(model.weights, target.weights) / MIB
    return found
