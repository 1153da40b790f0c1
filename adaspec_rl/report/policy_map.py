"""A policy's drafts, by its main observation and by the confidence of the draft."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from adaspec_rl.control.observation import EMA_SPANS, RECENT, ObservationSpec
from adaspec_rl.decoding.forecast import DEPTH
from adaspec_rl.decoding.round import Action
from adaspec_rl.decoding.survival import MATCH_LIMIT
from adaspec_rl.training.bundle import PolicyBundle

CONFIDENCE = tuple(step / 20 for step in range(1, 21))
ACCEPTANCE = tuple(step / 10 for step in range(11))
LOOKUP = tuple(step / 2 for step in range(2 * DEPTH))  # tokens
MATCHES = tuple(range(MATCH_LIMIT + 1))  # tokens
# Typical values of features, unscaled; others are 0. Costs are the bundle's own.
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
    "table_0_expected": 1.0,
    "table_0_first": 0.5,
}


@dataclass(frozen=True, slots=True)
class Axis:
    """The quantity that varies from column to column, and the features that depend on it."""

    name: str
    values: tuple[float, ...]
    features: Callable[[float], dict[str, float]]  # unscaled
    note: str


@dataclass(frozen=True, slots=True)
class PolicyMap:
    """How many tokens a policy would draft, and with which drafter."""

    x: list[float]
    y: list[float]
    drafted: list[list[int]]  # by y, then x; 0 is the fallback
    drafter: list[int | None]  # by x; None: the fallback
    drafters: list[str]  # names
    x_name: str
    y_name: str
    note: str


def policy_map(bundle: PolicyBundle, drafters: Sequence[str] = ()) -> PolicyMap:
    """The policy's drafts over two quantities.

    x is what the policy observes: recent acceptance, or a lookup's expected acceptance, or how much
    of the text's end has occurred before. y is the estimated chance that a drafted token is
    accepted, the same for all tokens. All other features stay at `TYPICAL`.
    """
    axis = _axis(bundle.spec)
    observations = np.stack([_observation(bundle, axis.features(x)) for x in axis.values])  # [X, F]
    chosen = [bundle.actions[number] for number in bundle.actor(observations).argmax(-1)]
    return PolicyMap(
        x=list(axis.values),
        y=list(CONFIDENCE),
        drafted=[[drafted(action, chance) for action in chosen] for chance in CONFIDENCE],
        drafter=[action.drafter if action.length else None for action in chosen],
        drafters=list(drafters),
        x_name=axis.name,
        y_name="estimated chance of each drafted token",
        note=f"{axis.note} All else that it sees is held at middling values. 0 is the fallback.",
    )


def drafted(action: Action, chance: float) -> int:
    """Tokens drafted under `action` if every token has this estimated chance.

    Drafting stops after the token at which the chance of the whole draft falls under the threshold.
    """
    survival = 1.0
    for depth in range(1, action.length + 1):
        survival *= chance
        if survival < action.threshold:
            return depth
    return action.length


def _axis(spec: ObservationSpec) -> Axis:
    if "history" in spec.groups:
        length = max(1, spec.max_length // 2)
        return Axis(
            "recent acceptance",
            ACCEPTANCE,
            partial(_recently, length=length),
            f"The last {RECENT} rounds drafted {length} tokens each and had the share on the axis "
            "accepted.",
        )
    if "lookup" in spec.groups:
        return Axis(
            "tokens expected of an n-gram lookup",
            LOOKUP,
            _promised,
            "What an n-gram lookup would bring now is on the axis; the longer its match, the more.",
        )
    if "context" in spec.groups:
        return Axis(
            "tokens in the text's end that occurred before",
            MATCHES,
            lambda tokens: {"suffix_match": math.log2(1 + tokens)},
            "How far the text's end has occurred before is on the axis.",
        )
    return Axis(
        "",
        (0.0,),
        lambda nothing: {},
        "This policy does not look at recent acceptance or the text: what it drafts depends on the "
        "confidence within the draft alone.",
    )


def _recently(rate: float, length: int) -> dict[str, float]:
    """Features after rounds of `length` drafted tokens, each accepted with chance `rate`."""
    accepted = sum(rate**depth for depth in range(1, length + 1))  # expected
    return {
        **{f"acceptance_ema_{span:g}": rate for span in EMA_SPANS},
        **{f"accepted_{ago}_ago": accepted for ago in range(1, RECENT + 1)},
        **{f"drafted_{ago}_ago": length for ago in range(1, RECENT + 1)},
    }


def _promised(expected: float) -> dict[str, float]:
    """Features of a lookup with `expected` accepted tokens, all equally likely to be accepted."""
    low, high = 0.0, 1.0
    for _ in range(40):  # p + p^2 + ... rises with p
        chance = (low + high) / 2
        short = sum(chance**depth for depth in range(1, DEPTH + 1)) < expected
        low, high = (chance, high) if short else (low, chance)
    return {
        "lookup_expected": expected,
        "lookup_first": low,
        "suffix_match": math.log2(1 + min(2 * expected, MATCH_LIMIT)),
        "lookup_rate_8": low,
        "lookup_rate_32": low,
    }


def _observation(bundle: PolicyBundle, known: Mapping[str, float]) -> np.ndarray:
    """A typical observation with these `known` features, `[F]` float32."""
    spec = bundle.spec
    batch_size = bundle.profile.points[0].batch_size
    costs = bundle.costs(batch_size).values()
    names = ObservationSpec(groups=("cost",), drafters=spec.drafters).names
    values = {**TYPICAL, **known, **dict(zip(names, costs))}
    scaled = [values.get(name, 0.0) / scale for name, scale in zip(spec.names, spec.scales)]
    return np.array(scaled, dtype=np.float32)
