"""A policy, a recording and costs, small enough to export in a second."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from adaspec_rl.control.action import action_list
from adaspec_rl.control.learned import Actor
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.costs.conversion import batch_costs
from adaspec_rl.costs.profile import CostProfile, RoundCosts
from adaspec_rl.decoding.drafters import DraftModel, NgramLookup
from adaspec_rl.interop.workshop import Workshop
from adaspec_rl.recording.recorder import record
from adaspec_rl.training.bundle import PolicyBundle, load_bundle, save_bundle
from adaspec_rl.training.judge import split
from tests.recording.recordings import Toys, random_head, toy_recording
from tests.toy import ToyModel, similar

PROMPTS = [[a, b, a] for a in range(1, 7) for b in range(1, 3)]
MODEL, LOOKUP = 0, 1


def toys(noise: float = 0.25) -> Toys:
    """A target, a draft model and a lookup."""
    target = ToyModel(seed=1, vocab_size=16)
    return Toys(target, [DraftModel(similar(target, noise), target.vocab_size), NgramLookup()])


def profile(
    sizes: Sequence[int] = (1, 4), draft: float = 0.1, rise: float = 0.03, max_length: int = 4
) -> CostProfile:
    """Verification gets dearer with the batch."""
    points = [
        RoundCosts(
            context=context,
            batch_size=size,
            autoregressive_step=1.0 + 0.1 * size,
            draft_step=(draft, 0.01),
            stopping_step=(0.01, 0.01),
            verification=tuple(1.0 + 0.1 * size + rise * size * w for w in range(max_length + 1)),
            overhead=(0.02, 0.02),
            catch_up=(0.005, 0.0),
        )
        for size in sizes
        for context in (4, 16)
    ]
    return CostProfile("toy", 0.001, tuple(points))


def bundle(folder: Path, costs: CostProfile, groups: Sequence[str] | None = None) -> PolicyBundle:
    """A policy with random weights, as loaded from `folder`."""
    rng = np.random.default_rng(3)
    spec = ObservationSpec(tuple(groups or ("context", "lookup", "cost")), 4, 16, 2)
    actions = tuple(action_list("length_threshold", 4, 2))
    sizes = [len(spec), 16, len(actions)]
    made = PolicyBundle(
        actor=Actor(
            tuple(rng.normal(size=(a, b)).astype(np.float32) for a, b in zip(sizes, sizes[1:])),
            tuple(rng.normal(size=b).astype(np.float32) for b in sizes[1:]),
        ),
        actions=actions,
        spec=spec,
        pair="toys",
        fingerprint="0123456789abcdef",
        profile=costs,
        survival=(random_head(16, 1), random_head(16, 2)),
        training={"temperature": 0.0},
    )
    save_bundle(made, folder)
    return load_bundle(folder)


def shop(
    folder: Path,
    *,
    noise: float = 0.25,
    costs: CostProfile | None = None,
    drafter: int = MODEL,
    groups: Sequence[str] | None = None,
) -> Workshop:
    """All that an export is made from."""
    costs = costs or profile()
    own = bundle(folder / "policy", costs, groups)
    recording = toy_recording(max_new_tokens=20, shard=4)
    trace, _ = record(
        toys(noise),
        recording,
        PROMPTS,
        ["toy"] * len(PROMPTS),
        folder / "trace",
        heads=list(own.survival),
    )
    learned, withheld = split(trace, 0.4)
    return Workshop(
        bundle=own,
        learned=learned,
        withheld=withheld,
        costs=batch_costs(costs),
        sizes=tuple(sorted({point.batch_size for point in costs.points})),
        drafters=("drafts/small", "ngram"),
        target="models/large",
        drafter=drafter,
        tiers=3,
        max_rows=64,
    )


def hostile(made: Workshop) -> Workshop:
    """Nothing is ever accepted."""

    def rejected(trace):
        tables = [replace(t, accepted=np.zeros_like(t.accepted)) for t in trace.drafters]
        return replace(trace, drafters=tuple(tables))

    return replace(made, learned=rejected(made.learned), withheld=rejected(made.withheld))
