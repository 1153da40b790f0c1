"""Small recordings of toy models, and a cost profile, for tests."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adaspec_rl.costs.profile import CostProfile, RoundCosts
from adaspec_rl.decoding.drafters import Drafter, DraftModel
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.session import LiveSession
from adaspec_rl.decoding.survival import (
    AGREEMENTS,
    MARGINS,
    SURPRISES,
    Survival,
    SurvivalHead,
)
from adaspec_rl.recording.recorder import Recording, record
from adaspec_rl.recording.trace import Trace
from tests.toy import ToyModel, similar

PROMPTS = [[1, 2], [3, 4, 5], [6], [7, 1, 2, 3], [5, 5]]
NODES = 16  # of the largest token tree that `profile` has costs of


@dataclass
class Toys:
    """A target and its drafters, as a recorder wants them."""

    target: ToyModel
    drafters: Sequence[Drafter]

    def session(self, recording: Recording, survival: Sequence[Survival] | None) -> LiveSession:
        """Decoding for real under the settings of a recording."""
        return LiveSession(
            self.target,
            self.drafters,
            eos_ids=recording.eos_ids,
            max_new_tokens=recording.max_new_tokens,
            sampling=recording.sampling,
            verification=recording.verification,
            survival=survival,
        )

    @property
    def forwards(self) -> int:
        """Forward passes so far, of all models."""
        drafters = [drafter.model for drafter in self.drafters if drafter.model]
        models = [self.target, *drafters]
        return sum(len(model.forwards) for model in models)


def toys(
    seed: int = 1, noise: Sequence[float] = (0.2, 0.5), contexts: Sequence[int] = (64, 64)
) -> Toys:
    """A target and a drafter for each of `noise`, whose contexts are `contexts`."""
    target = ToyModel(seed=seed)
    drafters: list[Drafter] = []
    for number, (weight, context) in enumerate(zip(noise, contexts)):
        model = similar(target, weight, seed=90 + number)
        model.context_length = context
        drafters.append(DraftModel(model, target.vocab_size))
    return Toys(target, drafters)


def toy_recording(temperature: float = 0.0, **settings) -> Recording:
    defaults = {
        "pair": "toys",
        "sampling": Sampling(temperature),
        "verification": "coupled",
        "eos_ids": (),
        "max_new_tokens": 12,
        "max_length": 4,
        "survival": "product",
        "shard": 2,
    }
    return Recording(**(defaults | settings))


def toy_trace(
    folder: Path, models: Toys | None = None, *, ranks: bool = False, **settings
) -> Trace:
    """Toy models' texts after `PROMPTS`."""
    recording, domains = toy_recording(**settings), ["toy"] * len(PROMPTS)
    return record(models or toys(), recording, PROMPTS, domains, folder, ranks=ranks)[0]


def random_head(vocab_size: int, seed: int = 0, log_probs: bool = True) -> SurvivalHead:
    """Chances all over the place."""
    rng = np.random.default_rng(seed)
    surprises = len(SURPRISES) if log_probs else 0
    shapes = [(AGREEMENTS, len(MARGINS)), surprises, vocab_size, vocab_size]
    return SurvivalHead(*(rng.normal(size=shape).astype(np.float32) for shape in shapes))


def profile(
    seed: int = 0,
    *,
    drafters: int = 2,
    max_length: int = 8,
    nodes: int = NODES,
    policy: float = 0.03,
    batch_sizes: Sequence[int] = (1,),
) -> CostProfile:
    """Random costs at three contexts, close enough for toys to tell them apart."""
    rng, trees = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    points = [
        RoundCosts(
            context=context,
            batch_size=size,
            autoregressive_step=float(rng.uniform(0.9, 1.1)),
            draft_step=tuple(rng.uniform(0.05, 0.2, drafters).tolist()),
            stopping_step=tuple(rng.uniform(0.0, 0.05, drafters).tolist()),
            verification=tuple(np.sort(rng.uniform(1.0, 1.6, max_length + 1)).tolist()),
            overhead=tuple(rng.uniform(0.0, 0.1, drafters).tolist()),
            catch_up=tuple(rng.uniform(0.0, 0.02, drafters).tolist()),
            tree_verification=tuple(np.sort(trees.uniform(1.0, 1.8, nodes + 1)).tolist()),
            levels=tuple(
                tuple(np.sort(trees.uniform(0.05, 0.4, nodes)).tolist()) for _ in range(drafters)
            ),
            tree_overhead=float(trees.uniform(0.0, 0.1)),
        )
        for size in batch_sizes
        for context in (3, 8, 14)
    ]
    return CostProfile("toy", policy, tuple(points))
