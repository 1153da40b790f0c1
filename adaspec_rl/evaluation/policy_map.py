"""What a policy does, over how much was accepted lately and how confident the draft is."""

from typing import Any

import numpy as np

from adaspec_rl.control.observation import EMA_SPANS, RECENT, ObservationSpec
from adaspec_rl.decoding.round import Action
from adaspec_rl.training.bundle import PolicyBundle

CONFIDENCE = tuple(step / 20 for step in range(1, 21))
ACCEPTANCE = tuple(step / 10 for step in range(11))
# Features at a middling moment, unscaled; what is not named is 0. Costs are the bundle's own.
TYPICAL = {
    "target_entropy": 1.5,
    "target_top_probability": 0.6,
    "draft_first_probability": 0.6,
    "draft_survival": 0.4,
    "draft_last_probability": 0.5,
    "draft_last_entropy": 1.5,
    "draft_last_margin": 1.5,
    "generated": float(np.log1p(64)),
    "suffix_match": 1.0,  # log2(1 + tokens)
    "lookup_rate_8": 0.3,
    "lookup_rate_32": 0.3,
    "lookup_expected": 1.0,
    "lookup_first": 0.5,
}


def policy_map(bundle: PolicyBundle) -> dict[str, Any]:
    """Tokens that the policy would draft, `drafted[y][x]`; 0 is the fallback.

    x is recent acceptance (the averages, and the last rounds in keeping with them), y a constant
    estimated chance that a drafted token is accepted. All other features stay at `TYPICAL`.
    """
    watches = "history" in bundle.spec.groups
    acceptance = ACCEPTANCE if watches else (0.5,)
    observations = np.stack([_observation(bundle, rate) for rate in acceptance])  # [X, F]
    chosen = [bundle.actions[number] for number in bundle.actor(observations).argmax(-1)]
    return {
        "x": list(acceptance),
        "y": list(CONFIDENCE),
        "drafted": [[drafted(action, chance) for action in chosen] for chance in CONFIDENCE],
        "x_name": "recent acceptance",
        "y_name": "estimated chance of each drafted token",
        "note": _note(bundle.spec, watches),
    }


def drafted(action: Action, chance: float) -> int:
    """Tokens drafted under `action` if every token has this estimated chance.

    Drafting stops after the token at which the chance of all so far falls under the threshold.
    """
    survival = 1.0
    for depth in range(1, action.length + 1):
        survival *= chance
        if survival < action.threshold:
            return depth
    return action.length


def _observation(bundle: PolicyBundle, rate: float) -> np.ndarray:
    """A typical observation after rounds in which this share was accepted, `[F]` float32."""
    spec = bundle.spec
    length = max(1, spec.max_length // 2)
    accepted = sum(rate**depth for depth in range(1, length + 1))  # expected of `length` drafted
    batch_size = bundle.profile.points[0].batch_size
    costs = bundle.costs(batch_size).values()
    values = {
        **TYPICAL,
        **{f"acceptance_ema_{span:g}": rate for span in EMA_SPANS},
        **{f"accepted_{ago}_ago": accepted for ago in range(1, RECENT + 1)},
        **{f"drafted_{ago}_ago": length for ago in range(1, RECENT + 1)},
        **dict(zip(ObservationSpec(groups=("cost",), drafters=spec.drafters).names, costs)),
    }
    scaled = [values.get(name, 0.0) / scale for name, scale in zip(spec.names, spec.scales)]
    return np.array(scaled, dtype=np.float32)


def _note(spec: ObservationSpec, watches: bool) -> str:
    if watches:
        return (
            f"The last {RECENT} rounds drafted {max(1, spec.max_length // 2)} tokens each and had "
            "the share on the axis accepted; all else that the policy sees is held at middling "
            "values. 0 is the fallback."
        )
    return (
        "This policy does not look at recent acceptance: what it drafts depends on the confidence "
        "within the draft alone. All else that it sees is held at middling values. 0 is the "
        "fallback."
    )
