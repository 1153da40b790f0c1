"""Draft models that take turns on the device: those in use are on it, the others on the host."""

from dataclasses import dataclass
from typing import Any, Protocol

from adaspec_rl.engine.host_copy import HostCopy
from adaspec_rl.engine.language_model import LanguageModel
from adaspec_rl.engine.memory import GIB


class Movable(Protocol):
    """A drafter with a model that can leave the device."""

    name: str
    model: LanguageModel
    offloading: "Offloading | None"

    def forget(self) -> None:
        """Forget what was read; the next draft reads the whole sequence again."""


@dataclass(slots=True)
class _Guest:
    drafter: Movable
    copy: HostCopy
    idle: int = 0  # rounds since it was last asked for

    def leave(self) -> None:
        self.copy.leave()
        self.drafter.forget()


class Offloading:
    """Decides which draft models are on the device.

    A model that no round has asked for in `idle_rounds` rounds leaves the device. A model that is
    asked for while it is away is fetched in the background; until it arrives its drafts are empty,
    so rounds are plain steps of the target. If `limit` leaves no room for it, the models unused for
    longest leave first. A model that leaves forgets the text, and reads it again in one pass when
    it is used next.

    Attributes:
        moves: how often weights were moved to the device.
        moved: the bytes of these moves.
    """

    def __init__(self, *, idle_rounds: int, limit: int | None = None) -> None:
        """`limit`: bytes that the weights of all draft models on the device may take."""
        if idle_rounds < 1:
            raise ValueError(f"model.idle_rounds must be at least 1, got {idle_rounds}")
        self.idle_rounds = idle_rounds
        self.limit = limit
        self.moves = self.moved = 0
        self._guests: dict[str, _Guest] = {}

    @property
    def resident(self) -> list[str]:
        """The draft models that are on the device, or on their way."""
        return [
            name for name, guest in self._guests.items() if guest.copy.here or guest.copy.coming
        ]

    def add(self, drafter: Movable, besides: Any = None) -> None:
        """Take charge of a draft model that is on the device; it leaves if there is no room for it.

        Tensors that it shares with `besides` never move.

        Raises:
            ValueError: the model would not fit even if it were alone.
        """
        guest = _Guest(drafter, HostCopy(drafter.model, besides))
        if self.limit is not None and guest.copy.bytes > self.limit:
            raise ValueError(
                f"{drafter.name} takes {guest.copy.bytes / GIB:.3g} GiB, but model.memory_limit "
                f"leaves {max(self.limit, 0) / GIB:.3g} GiB for draft models: raise it, or leave "
                f"{drafter.name} out of model.drafters"
            )
        drafter.offloading = self
        self._guests[drafter.name] = guest
        if self._excess(0) > 0:
            guest.leave()

    def ready(self, drafter: Movable) -> bool:
        """Whether the drafter can draft now; if not, its weights are on their way."""
        guest = self._guests[drafter.name]
        guest.idle = 0
        if not guest.copy.here and not guest.copy.coming:
            self._fetch(guest)
        return guest.copy.arrive()

    def bring(self, drafter: Movable) -> None:
        """Bring the drafter's weights to the device, however long that takes."""
        self.ready(drafter)
        self._guests[drafter.name].copy.arrive(wait=True)

    def rest(self, drafter: Movable) -> None:
        """A round was played without this drafter."""
        guest = self._guests[drafter.name]
        guest.idle += 1
        if guest.idle >= self.idle_rounds and guest.copy.arrive():
            guest.leave()

    def _fetch(self, guest: _Guest) -> None:
        for other in sorted(self._guests.values(), key=lambda other: -other.idle):
            if self._excess(guest.copy.bytes) <= 0:
                break
            if other is not guest and (other.copy.here or other.copy.coming):
                other.leave()
        guest.copy.fetch()
        self.moves += 1
        self.moved += guest.copy.bytes

    def _excess(self, more: int) -> int:
        """Bytes above the limit if `more` bytes were added."""
        held = sum(self._guests[name].copy.bytes for name in self.resident)
        return 0 if self.limit is None else held + more - self.limit
