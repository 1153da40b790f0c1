"""A plain table: what to draft, by batch size, context and recent acceptance."""

import csv
import io
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adaspec_rl.control.batch_controller import Load
from adaspec_rl.control.batching.rule import BatchRule
from adaspec_rl.decoding.round import FALLBACK, Action, Round

SPAN = 6.0  # drafts in an average
DRIFT = 0.03  # share of the way back to START per round without a draft
START = 0.5
COLUMNS = ("rows_from", "context_from", "acceptance_from", "drafter", "length")


@dataclass(frozen=True, slots=True)
class DraftTable:
    """Actions by cell; each axis lists where its cells begin, starting at its least value."""

    rows: tuple[int, ...]
    contexts: tuple[int, ...]
    acceptances: tuple[float, ...]
    actions: tuple[Action, ...]  # rows by contexts by acceptances, the last changing fastest

    def __post_init__(self) -> None:
        for name, least in (("rows", 1), ("contexts", 0), ("acceptances", 0.0)):
            places = getattr(self, name)
            rising = all(low < high for low, high in zip(places, places[1:]))
            if not places or places[0] != least or not rising:
                raise ValueError(f"expected rising {name} from {least} on, got {list(places)}")
        if len(self.actions) != self.cells:
            raise ValueError(f"expected {self.cells} actions, got {len(self.actions)}")

    @property
    def cells(self) -> int:
        return len(self.rows) * len(self.contexts) * len(self.acceptances)

    def decide(self, rows: int, context: int, acceptance: float) -> Action:
        """The action for a text of `context` tokens among `rows`."""
        r = bisect_right(self.rows, rows) - 1
        c = bisect_right(self.contexts, context) - 1
        a = bisect_right(self.acceptances, acceptance) - 1
        return self.actions[(r * len(self.contexts) + c) * len(self.acceptances) + a]

    def csv(self) -> str:
        """The table as CSV, one line per cell."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        places = ((r, c, a) for r in self.rows for c in self.contexts for a in self.acceptances)
        for (r, c, a), action in zip(places, self.actions):
            writer.writerow([r, c, f"{a:g}", action.drafter, action.length])
        return text.getvalue()

    @classmethod
    def load(cls, path: Path) -> "DraftTable":
        """Read a table from a file.

        Raises:
            ValueError: the file is not such a table, or has gaps.
        """
        with path.open(newline="") as file:
            lines = list(csv.reader(file))
        if not lines or tuple(lines[0]) != COLUMNS:
            raise ValueError(f"{path} has the columns {lines[:1]!a:.80}: expected {COLUMNS}")
        try:
            cells = [
                (int(r), int(c), float(a), Action(int(length), int(drafter)))
                for r, c, a, drafter, length in lines[1:]
            ]
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}): export anew") from None
        ordered = sorted(cells, key=lambda cell: cell[:3])
        return cls(
            tuple(sorted({cell[0] for cell in cells})),
            tuple(sorted({cell[1] for cell in cells})),
            tuple(sorted({cell[2] for cell in cells})),
            tuple(cell[3] if cell[3].length else FALLBACK for cell in ordered),
        )


def moved(acceptance: float, drafted: int, rate: float) -> float:
    """Recent acceptance after a round; `rate` is accepted tokens divided by verified ones."""
    if drafted:
        return rate + (acceptance - rate) * KEPT
    return acceptance + (START - acceptance) * DRIFT


KEPT = float(np.exp(-1.0 / SPAN))


class TableController(BatchRule):
    """Decides by a table, row by row; follows each text's length and acceptance."""

    name = "table"

    def __init__(self, table: DraftTable) -> None:
        self._table = table
        self._state: dict[int, tuple[int, float]] = {}

    def reset(self, rows: int) -> None:
        self._state.clear()

    def admit(self, row: int, prompt: Sequence[int], seed: int) -> None:
        self._state[row] = len(prompt), START

    def decide(
        self, rows: Sequence[int], observations: np.ndarray | None, load: Load
    ) -> list[Action]:
        count = len(rows)
        return [self._table.decide(count, *self._state[row]) for row in rows]

    def observe(self, rows: Sequence[int], rounds: Sequence[Round], seconds: float) -> None:
        for row, played in zip(rows, rounds):
            context, acceptance = self._state[row]
            rate = played.accepted / max(1, played.reached)
            after = moved(acceptance, played.drafted, rate)
            self._state[row] = context + len(played.tokens), after
