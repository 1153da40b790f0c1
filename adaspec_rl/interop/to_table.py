"""A table of drafters and lengths by batch size, context and recent acceptance, as CSV."""

from pathlib import Path

import numpy as np

from adaspec_rl.costs.profile import CostProfile
from adaspec_rl.decoding.round import Action
from adaspec_rl.interop.exported import Export, Part
from adaspec_rl.interop.replayed import Replayable
from adaspec_rl.interop.table import DRIFT, KEPT, SPAN, START, DraftTable, TableController
from adaspec_rl.interop.workshop import Workshop
from adaspec_rl.recording.trace import Trace
from adaspec_rl.replay.oracle import catch_up_steps, lengths_of
from adaspec_rl.replay.outcomes import Outcomes, nearest_context, outcomes, steps_of

INTERFACE = "CSV: rows_from, context_from, acceptance_from, drafter, length"
FILE, TABLE = "table.csv", "table"
CONTEXTS = (0, 256, 1024)
ACCEPTANCES = (0.0, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9)
PASSES = 4  # over the texts, each under the table of the pass before
TRIED = 0.2  # share of rounds with a random action in place of the table's


def write(shop: Workshop, folder: Path) -> list[Part]:
    """Write the part."""
    (folder / FILE).write_text(fitted(shop.learned, shop.profile(), shop.sizes).csv())
    return [
        Part(
            TABLE,
            (FILE,),
            "read it, or decide by adaspec_rl.interop.table.DraftTable.load(FILE)",
            tuple(range(len(shop.drafters))),
            lost=(
                "all that the policy reads in the text but its length and recent acceptance",
                "thresholds that stop a draft early",
            ),
            mind=(
                f"recent acceptance begins at {START}; a draft moves it by {1 - KEPT:.3f} of the "
                f"way to its accepted by looked-at tokens (an average over {SPAN:g} drafts), a "
                f"round without one by {DRIFT} of the way back to {START}",
            ),
        )
    ]


def replayables(folder: Path, export: Export) -> dict[str, Replayable]:
    """The part, loaded back from the folder."""
    table = DraftTable.load(folder / FILE)
    return {part.name: Replayable(lambda: TableController(table)) for part in export.parts}


def fitted(trace: Trace, profile: CostProfile, sizes: tuple[int, ...]) -> DraftTable:
    """The fastest table on these texts, fitted at the positions where its own rounds begin.

    The texts are played under the current table. At each position where a round begins, the
    outcomes of all actions are known and count for the position's cell. Cells that were never met
    take the best action at their batch size.
    """
    found = outcomes(trace, lengths_of(trace, profile.max_length))
    rng = np.random.default_rng(0)
    chosen: list[Action] = []
    for size in sizes:
        cells = _Cells(found, profile, size)
        choice = cells.best(np.arange(len(found.context)), np.zeros(len(found.context), dtype=int))
        choice[:] = choice[0]
        for _ in range(PASSES):
            at, cell = cells.played(choice, rng)
            choice = cells.best(at, cell, choice)
        chosen += [found.actions[n] for n in choice]
    starts = (1, *sizes[1:])
    return DraftTable(starts, CONTEXTS, ACCEPTANCES, tuple(chosen))


class _Cells:
    """The cells (contexts by acceptances) of one batch size, and the actions' outcomes in each."""

    def __init__(self, found: Outcomes, profile: CostProfile, size: int) -> None:
        self._found = found
        self._steps = steps_of(found, profile, batch_size=size, policy=False)
        points = profile.contexts(size)
        rises = catch_up_steps(points)[nearest_context(points, found.context)].T  # [D, M]
        drafters = np.array([action.drafter for action in found.actions])
        # The time that other drafters later take to read a round's tokens is charged to that round.
        owed = rises.sum(axis=0) - np.where(found.drafted > 0, rises[drafters], 0.0)
        self._steps = self._steps + owed * found.emitted
        self._context = np.searchsorted(CONTEXTS, found.context, side="right") - 1
        self._count = len(CONTEXTS) * len(ACCEPTANCES)
        self._rate = 1.0  # the speedup so far, as the λ of the reward

    def best(
        self, at: np.ndarray, cell: np.ndarray, before: np.ndarray | None = None
    ) -> np.ndarray:
        """The action of each cell with the highest reward, over positions `at` in `cell`."""
        worth = self._found.emitted[:, at] / self._rate - self._steps[:, at]
        sums = np.stack([np.bincount(cell, row, self._count) for row in worth])  # [A, cells]
        overall = np.full(self._count, int(worth.sum(axis=1).argmax()))
        met = np.bincount(cell, minlength=self._count) > 0
        return np.where(met, sums.argmax(axis=0), overall if before is None else before)

    def played(self, choice: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The positions and cells met when all texts are played under `choice`."""
        found, starts = self._found, self._found.trace.starts
        at, ends = starts[:-1].copy(), starts[1:]
        acceptance = np.full(len(at), START)
        met: list[tuple[np.ndarray, np.ndarray]] = []
        tokens = steps = 0.0
        while len(at):
            cell = self._context[at] * len(ACCEPTANCES) + (
                np.searchsorted(ACCEPTANCES, acceptance, side="right") - 1
            )
            met.append((at, cell))
            action = choice[cell]
            tokens += float(found.emitted[action, at].sum())
            steps += float(self._steps[action, at].sum())
            other = rng.integers(len(found.actions), size=len(at))
            action = np.where(rng.random(len(at)) < TRIED, other, action)
            drafted, accepted, emitted = (
                table[action, at].astype(np.int64)
                for table in (found.drafted, found.accepted, found.emitted)
            )
            rate = accepted / np.maximum(np.minimum(np.minimum(accepted + 1, drafted), emitted), 1)
            acceptance = np.where(
                drafted > 0,
                rate + (acceptance - rate) * KEPT,
                acceptance + (START - acceptance) * DRIFT,
            )
            at = at + emitted
            going = at < ends
            at, ends, acceptance = at[going], ends[going], acceptance[going]
        self._rate = max(1.0, tokens / steps)
        return np.concatenate([one for one, _ in met]), np.concatenate([two for _, two in met])
