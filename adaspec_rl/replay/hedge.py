"""Hedge over actions with full information: after each round, every action is scored."""

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
    """Steps `[N]` of every text if each round's action is drawn in proportion to its weight.

    After each round, every action's weight is multiplied by `exp(rate * reward)` (Freund and
    Schapire 1997, doi:10.1006/jcss.1997.1504). The reward is what the action would have gained in
    the round: its tokens over the best fixed speedup, less its steps. Weights start anew in every
    text.
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
