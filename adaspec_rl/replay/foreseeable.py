"""The best speedup that can be foreseen: all chances are known, the noise is not."""

import numpy as np

from adaspec_rl.costs.profile import CostProfile
from adaspec_rl.recording.trace import Trace
from adaspec_rl.replay.oracle import lengths_of
from adaspec_rl.replay.outcomes import outcomes, steps_of


def foreseeable_speedup(
    trace: Trace,
    profile: CostProfile,
    chances: np.ndarray,
    *,
    max_length: int | None = None,
    batch_size: int = 1,
) -> float:
    """Expected speedup of the best policy that knows every chance, but no outcome.

    At each position it weighs every draft length of every drafter by `chances` `[D, K, M]` (see
    `recording.chances`) that each token of a draft is accepted, given that all before it were.
    Texts are solved from their ends. Drafters catch up for free. The gap from this bound to the
    oracle is luck; the gap to a policy is knowledge.
    """
    actions = lengths_of(trace, max_length)
    found = outcomes(trace, actions)
    steps = steps_of(found, profile, batch_size=batch_size)  # [A, M]
    total = 0.0
    for start, end in zip(trace.starts[:-1], trace.starts[1:]):
        drafted = found.drafted[:, start:end]
        total += _solve(drafted, steps[:, start:end], chances[..., start:end], actions)
    return float(trace.starts[-1] / total)


def _solve(drafted: np.ndarray, steps: np.ndarray, chances: np.ndarray, actions: list) -> float:
    """Expected steps of a text of `G` tokens; `drafted` and `steps` are `[A, G]`."""
    depth = max(action.length for action in actions)
    count = chances.shape[2]
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
                    best = min(best, steps[number, g] + rest)
        ahead[g] = best
    return float(ahead[0])
