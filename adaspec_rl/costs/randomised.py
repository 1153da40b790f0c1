"""Cost profiles drawn at random, for policies that should work on any machine."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from adaspec_rl.costs.profile import RoundCosts

# In autoregressive steps; from a laptop to a large GPU, from batch 1 to 64.
DRAFT_STEP = (0.02, 0.4)
OTHER_DRAFT_STEP = (0.001, 0.4)  # of drafters after the first; lookups are almost free
VERIFICATION_STEP = (0.002, 0.15)
OVERHEAD = (0.0, 0.3)
STOPPING = (0.0, 0.3)  # as a share of the draft step
CATCH_UP = (0.0, 0.1)  # likewise
NODE = (0.01, 0.3)  # one more node of a level, as a share of the draft step
TREE_OVERHEAD = (0.0, 0.1)
POLICY = (0.0, 0.1)
# Seconds over the measured ones, as costs drift: of a plain step's forward, and of what a wider one
# takes beyond it.
MEMORY, ARITHMETIC = (0.6, 1.7), (0.6, 2.5)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)


def random_costs(
    rng: np.random.Generator, drafters: int, max_length: int, nodes: int = 0
) -> tuple[RoundCosts, float]:
    """The costs of an imaginary machine, and the seconds of its policy; a plain step takes 1 s.

    `nodes` is the size of the largest token tree; 0: none is drafted.
    """
    ranges = (DRAFT_STEP, *(OTHER_DRAFT_STEP,) * (drafters - 1))
    draft = tuple(_log_uniform(rng, bounds) for bounds in ranges[:drafters])
    verification = _log_uniform(rng, VERIFICATION_STEP)
    trees: dict[str, Any] = {}
    if nodes:
        widths = np.arange(nodes)
        rises = [step * _log_uniform(rng, NODE) for step in draft]
        trees = {
            "tree_verification": tuple(1.0 + verification * n for n in range(nodes + 1)),
            "levels": tuple(tuple((d + r * widths).tolist()) for d, r in zip(draft, rises)),
            "tree_overhead": rng.uniform(*TREE_OVERHEAD),
        }
    return (
        RoundCosts(
            context=1,
            batch_size=int(rng.choice(BATCH_SIZES)),
            autoregressive_step=1.0,
            draft_step=draft,
            stopping_step=tuple(step * rng.uniform(*STOPPING) for step in draft),
            verification=tuple(1.0 + verification * k for k in range(max_length + 1)),
            overhead=(rng.uniform(*OVERHEAD),) * drafters,
            catch_up=tuple(step * rng.uniform(*CATCH_UP) for step in draft),
            **trees,
        ),
        rng.uniform(*POLICY),
    )


def drifting_costs(rng: np.random.Generator, points: Sequence[RoundCosts]) -> list[RoundCosts]:
    """A machine's costs, at each of several contexts, while other work runs beside it."""
    memory, arithmetic = _log_uniform(rng, MEMORY), _log_uniform(rng, ARITHMETIC)
    return [point.drifted(memory, arithmetic) for point in points]


def _log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    return float(math.exp(rng.uniform(*np.log(bounds))))
