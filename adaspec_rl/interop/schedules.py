"""Draft lengths by batch size, with few different lengths, for engines' static tables."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from adaspec_rl.control.batching.by_batch_size import LengthByBatchSize
from adaspec_rl.costs.profile import CostProfile
from adaspec_rl.decoding.round import FALLBACK, Action
from adaspec_rl.recording.trace import Trace
from adaspec_rl.replay.oracle import fixed_steps

Schedule = dict[int, int]  # draft length from a number of rows on; begins with 1 row


def seconds_by_length(trace: Trace, profile: CostProfile, sizes: Sequence[int]) -> np.ndarray:
    """`[sizes, 1 + K]`: autoregressive steps of all texts at each draft length of drafter 0."""
    actions = [FALLBACK, *(Action(n) for n in range(1, profile.max_length + 1))]
    actions = actions[: 1 + trace.max_length]
    return np.stack(
        [fixed_steps(trace, actions, profile, batch_size=size).sum(axis=1) for size in sizes]
    )


def fitted_schedule(
    trace: Trace, profile: CostProfile, sizes: Sequence[int], tiers: int
) -> Schedule:
    """The fastest lengths on these texts, at most `tiers` different ones.

    Engines capture graphs for each length in advance, so there can be only a few lengths; 0 counts
    as one of them.
    """
    return fewest(seconds_by_length(trace, profile, sizes), sizes, tiers)


def fewest(steps: np.ndarray, sizes: Sequence[int], tiers: int) -> Schedule:
    """The best schedule from `steps` `[sizes, 1 + K]` with at most `tiers` different lengths."""
    best = sorted({int(length) for length in steps.argmin(axis=1)})
    chosen = min(
        combinations(best, min(tiers, len(best))),
        key=lambda some: float((steps[:, some].min(axis=1) / steps[:, 0]).sum()),
    )
    lengths = [chosen[int(row[list(chosen)].argmin())] for row in steps]
    return merged(dict(zip(sizes, lengths)))


def merged(schedule: Mapping[int, int]) -> Schedule:
    """The schedule without repeated entries; the smallest size also stands for all below it."""
    made: Schedule = {}
    for size in sorted(schedule):
        if not made or schedule[size] != list(made.values())[-1]:
            made[size if made else 1] = schedule[size]
    return made


def controller(schedule: Schedule) -> LengthByBatchSize:
    """The controller that replays the schedule with drafter 0."""
    return LengthByBatchSize(
        {size: Action(length) if length else FALLBACK for size, length in schedule.items()}
    )
