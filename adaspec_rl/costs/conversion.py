"""Converts costs of single texts, measured at some batch sizes, to costs of batches, and back."""

import statistics
from collections.abc import Sequence

import numpy as np

from adaspec_rl.costs.batch_costs import BatchCosts, DrafterCosts
from adaspec_rl.costs.forward_costs import ForwardCosts
from adaspec_rl.costs.profile import CostProfile, RoundCosts


def batch_costs(profile: CostProfile) -> BatchCosts:
    """The costs of batches according to `profile`, which was measured with equal drafts.

    At a measured batch size and context, rows that all draft the same cost what the profile says.
    With a single measured batch size, the number of rows makes no difference.
    """
    sizes = sorted({point.batch_size for point in profile.points})
    contexts = sorted({point.context for point in profile.points})
    grid = [[profile.at(context, size) for context in contexts] for size in sizes]
    widths = range(profile.max_length + 1)

    def table(lines: Sequence[Sequence[Sequence[float]]]) -> ForwardCosts:
        """A table from seconds `[rows][contexts][widths]`."""
        by_width = [list(zip(*line)) for line in lines]
        places = tuple(map(float, range(1, 1 + len(lines[0][0]))))
        seconds = tuple(tuple(map(tuple, line)) for line in by_width)
        return ForwardCosts(tuple(map(float, sizes)), places, tuple(map(float, contexts)), seconds)

    verifying = [
        [[p.verification[w] if w else p.autoregressive_step for w in widths] for p in line]
        for line in grid
    ]
    drafters = tuple(
        DrafterCosts(
            table(
                [
                    [[p.draft_step[d], p.draft_step[d] + p.catch_up[d]] for p in line]
                    for line in grid
                ]
            ),
            stopping=statistics.median(p.stopping_step[d] for p in profile.points),
            overhead=statistics.median(p.overhead[d] for p in profile.points),
        )
        for d in range(profile.drafters)
    )
    return BatchCosts(profile.device, table(verifying), drafters, policy_row=profile.policy)


def cost_profile(
    costs: BatchCosts, sizes: Sequence[int], contexts: Sequence[int], max_length: int
) -> CostProfile:
    """A profile of the costs of batches of equal rows, at these batch sizes and contexts."""
    points = [_point(costs, size, context, max_length) for size in sizes for context in contexts]
    return CostProfile(costs.device, costs.policy + costs.policy_row, tuple(points))


def _point(costs: BatchCosts, size: int, context: int, max_length: int) -> RoundCosts:
    rows, at = np.array([float(size)]), np.array([float(context)])

    def drafting(unread: float) -> list[float]:
        return [float(costs.drafting(d, rows, at, unread)[0]) for d in range(len(costs.drafters))]

    steps = drafting(0.0)
    behind = drafting(float(size))
    verifying = [
        float(costs.target(rows, rows * (1 + drafted), at)[0]) for drafted in range(max_length + 1)
    ]
    return RoundCosts(
        context=context,
        batch_size=size,
        autoregressive_step=verifying[0] + costs.overhead,
        draft_step=tuple(steps),
        stopping_step=tuple(item.stopping for item in costs.drafters),
        verification=tuple(verifying),
        overhead=tuple(item.overhead + costs.overhead for item in costs.drafters),
        catch_up=tuple(max(0.0, more - step) for step, more in zip(steps, behind)),
    )
