"""The best schedule that can be foreseen: all chances are known, the noise is not."""

from collections.abc import Sequence

import numpy as np

from adaspec_rl.costs.profile import CostProfile
from adaspec_rl.decoding.round import Action
from adaspec_rl.recording.trace import Trace
from adaspec_rl.replay.oracle import lengths_of
from adaspec_rl.replay.outcomes import outcomes, steps_of
from adaspec_rl.replay.schedule import Schedule


def foreseeable(
    trace: Trace,
    profile: CostProfile,
    chances: np.ndarray,
    *,
    max_length: int | None = None,
    batch_size: int = 1,
) -> Schedule:
    """The best schedule for who knows every chance, but no outcome, and its expected steps.

    At each position it weighs every draft length of every drafter by `chances` `[D, K, M]` (see
    `recording.chances`) that each token of a draft is accepted, given that all before it were.
    Texts are solved from their ends. Drafters catch up for free. The gap from this bound to the
    oracle is luck; the gap to a policy is knowledge. The schedule has an action at every position.
    """
    actions = lengths_of(trace, max_length)
    found = outcomes(trace, actions)
    steps = steps_of(found, profile, batch_size=batch_size)  # [A, M]
    best, total = np.zeros(trace.starts[-1], dtype=np.int64), np.zeros(len(trace.texts))
    for number, (start, end) in enumerate(zip(trace.starts[:-1], trace.starts[1:])):
        here = slice(start, end)
        best[here], total[number] = _solve(
            found.drafted[:, here], steps[:, here], chances[..., here], actions
        )
    return Schedule(tuple(actions), best, total, np.diff(trace.starts))


def _solve(
    drafted: np.ndarray, steps: np.ndarray, chances: np.ndarray, actions: Sequence[Action]
) -> tuple[np.ndarray, float]:
    """The best actions `[G]` and the expected steps of a text of `G` tokens.

    `drafted` and `steps` are `[A, G]`.
    """
    depth = max(action.length for action in actions)
    count = chances.shape[2]
    choice = np.zeros(count, dtype=np.int64)
    ahead = np.zeros(count + depth + 2)  # expected steps from each position on; 0 beyond the end
    for g in range(count - 1, -1, -1):
        best = steps[0, g] + ahead[g + 1]
        for drafter in range(len(chances)):
            chance = chances[drafter, :depth, g]
            survives = np.concatenate([[1.0], np.cumprod(chance)])  # [K + 1] of the first k
            # Expected rest if exactly k of many drafted tokens survive, summed up to each k.
            missed = np.cumsum(survives[:-1] * (1 - chance) * ahead[g + 1 : g + 1 + depth])
            for number, action in enumerate(actions):
                k = int(drafted[number, g])
                if action.drafter == drafter and k:
                    rest = missed[k - 1] + survives[k] * ahead[g + k + 1]
                    if steps[number, g] + rest < best:
                        best, choice[g] = steps[number, g] + rest, number
        ahead[g] = best
    return choice, float(ahead[0])
