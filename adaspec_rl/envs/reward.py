"""Rewards of one round, whose cost is in units of one autoregressive step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Number = TypeVar("Number", float, np.ndarray)  # of one round, or of many at once

REWARDS = ("throughput", "ratio", "accepted")


def check_choice(what: str, value: str, known: Sequence[str]) -> None:
    """Refuse a `value` that is not one of the `known` ones."""
    if value not in known:
        raise ValueError(f"unknown {what} {value!r}: expected one of {', '.join(known)}")


@dataclass(frozen=True, slots=True)
class Reward:
    """`throughput` (the default), `ratio` or `accepted`.

    Throughput is a ratio of sums, so its per-round reward is `tokens / λ - seconds / t_AR`, with λ
    the best speedup found so far: Dinkelbach's method, at whose fixed point the average reward is
    0. The fallback then earns exactly `1 / λ - 1`.

    A drafter that drafts again must first read the tokens committed since its last draft. Rewards
    charge that time to the rounds that left the tokens unread. Otherwise a policy that looks only
    one round ahead would never return to a drafter that it has not used for a while.
    """

    kind: str = "throughput"

    def __post_init__(self) -> None:
        check_choice("reward", self.kind, REWARDS)

    def __call__(self, emitted: Number, accepted: Number, steps: Number, rate: Number) -> Number:
        """The reward of rounds that cost `steps` autoregressive steps each; `rate` is λ."""
        if self.kind == "throughput":
            return emitted / rate - steps
        if self.kind == "ratio":
            return emitted / steps
        return 1.0 * accepted
