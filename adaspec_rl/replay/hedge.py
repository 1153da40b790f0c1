"""Hedge over actions with full information: once a text is verified, all drafters are scored."""

from collections.abc import Sequence

import numpy as np

from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.costs.profile import CostProfile
from adaspec_rl.decoding.round import Action
from adaspec_rl.recording.trace import Trace
from adaspec_rl.replay.oracle import best_fixed
from adaspec_rl.replay.streams import ReplayStreams, ReplayTables


def hedge(
    trace: Trace,
    actions: Sequence[Action],
    profile: CostProfile,
    *,
    rate: float = 0.3,
    batch_size: int = 1,
    seed: int = 0,
) -> np.ndarray:
    """Steps `[N]` of every text if each round's action is drawn by its weight.

    A weight grows by the factor `exp(rate * reward)` (Freund and Schapire 1997,
    doi:10.1006/jcss.1997.1504) of what its action would have gained in each round so far, anew in
    every text: the reward is tokens over the best fixed speedup, less steps.
    """
    count = len(trace.texts)
    speedup = best_fixed(trace, profile, actions=actions, batch_size=batch_size)[1]
    streams = ReplayStreams.of(
        ReplayTables(trace, actions),
        ObservationSpec(("cost",), trace.max_length),
        profile,
        streams=count,
        batch_size=batch_size,
    )
    streams.start(slice(None), np.arange(count))
    rng, gains = np.random.default_rng(seed), np.zeros((count, len(actions)))
    total, alive = np.zeros(count), np.ones(count, dtype=bool)
    while alive.any():
        emitted, steps = streams.every_outcome()
        played = streams.step((gains + rng.gumbel(size=gains.shape)).argmax(axis=1))
        gains += rate * (emitted / speedup - steps)
        total += np.where(alive, played.steps, 0.0)
        alive &= ~played.finished
    return total
