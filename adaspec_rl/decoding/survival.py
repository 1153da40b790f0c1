"""The chance that a drafted token will be accepted, estimated before the target has seen it.

The product of these chances over a draft is the chance that all of it survives, which early
stopping compares with an action's threshold.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

MATCH_LIMIT = 8  # tokens; longer matches of the text's end count as this
MARGIN_LIMIT = 20.0  # nats, likewise
PLAIN_FEATURES = 6  # those of `SurvivalHead` that are not the hidden state


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an estimate may use, of `N` drafted tokens (float arrays)."""

    log_prob: np.ndarray  # [N], of the token, by the drafter
    choice_margin: np.ndarray  # [N], between the drafter's first and second choice
    match: np.ndarray  # [N], longest earlier occurrence of the text before the token
    agrees: np.ndarray  # [N], 1 where the token is what followed there, else 0
    hidden: np.ndarray | None  # [N, hidden], what the drafter's logits were computed from


class Survival(Protocol):
    """Estimates the chance that a drafted token is accepted, given that all before it were."""

    name: str
    needs_evidence: bool  # beyond the log-probability

    def __call__(self, evidence: Evidence) -> np.ndarray:
        """Chances `[N]`."""
        ...


class ProductSurvival:
    """Takes the drafter at its word: its own probability of the token."""

    name = "product"
    needs_evidence = False

    def __call__(self, evidence: Evidence) -> np.ndarray:
        return np.exp(evidence.log_prob)


@dataclass(frozen=True)
class SurvivalHead:
    """A calibrated estimate: one small hidden layer, fitted on recorded texts (`replay.fitting`).

    Sees the drafter's hidden state, its confidence, and whether an n-gram lookup agrees with it.
    """

    weight: np.ndarray  # [6 + hidden, units] float32, feature scaling included
    bias: np.ndarray  # [units]
    output: np.ndarray  # [units]
    output_bias: float
    name = "head"
    needs_evidence = True

    def __post_init__(self) -> None:
        # What `one` works in: a row of features that ends in a constant 1, which takes the bias.
        row = np.ones(len(self.weight) + 1, dtype=np.float32)
        matrix = np.concatenate([self.weight, self.bias[None]])
        parts = (row, row[:PLAIN_FEATURES], row[PLAIN_FEATURES:-1], matrix, self.bias.copy())
        object.__setattr__(self, "_scratch", parts)

    def __call__(self, evidence: Evidence) -> np.ndarray:
        return self.chances(features(evidence))

    def chances(self, inputs: np.ndarray) -> np.ndarray:
        """Chances `[N]` of `features` `[N, 6 + hidden]`."""
        inner = np.tanh(inputs @ self.weight + self.bias)
        return 1.0 / (1.0 + np.exp(-(inner @ self.output + self.output_bias)))

    def one(
        self,
        margin: float,
        match: int,
        agrees: bool,
        hidden: np.ndarray | None,
    ) -> float:
        """The same for a single token, with `hidden` `[hidden]`.

        Runs between two forward passes of the drafter: makes as few calls as it can.
        """
        row, plain, rest, matrix, inner = self._scratch  # type: ignore[attr-defined]
        margin = min(margin, MARGIN_LIMIT)
        share = min(match, MATCH_LIMIT) / MATCH_LIMIT
        followed = share if agrees else 0.0
        plain[:] = (margin, math.exp(-margin), share, agrees, followed, match > 0 and not agrees)
        if hidden is not None:
            rest[:] = hidden
        np.dot(row, matrix, out=inner)
        np.tanh(inner, out=inner)
        return 1.0 / (1.0 + math.exp(-float(inner.dot(self.output)) - self.output_bias))

    @property
    def hidden_size(self) -> int:
        """Width of the drafter's hidden state; 0: it is not used."""
        return len(self.weight) - PLAIN_FEATURES

    def tensors(self) -> dict[str, np.ndarray]:
        """Its arrays by name, for files."""
        return {
            "weight": self.weight,
            "bias": self.bias,
            "output": self.output,
            "output_bias": np.array([self.output_bias], dtype=np.float32),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> "SurvivalHead":
        """Back from `tensors`.

        Raises:
            ValueError: an array is missing or of the wrong shape.
        """
        missing = [
            name for name in ("weight", "bias", "output", "output_bias") if name not in tensors
        ]
        if missing:
            raise ValueError(f"the survival head lacks {', '.join(missing)}: fit it anew")
        weight, units = tensors["weight"], tensors["bias"].shape
        fits = weight.ndim == 2 and weight.shape[1:] == units == tensors["output"].shape
        if not fits or len(weight) < PLAIN_FEATURES:
            raise ValueError(
                f"the survival head has a weight of shape {list(weight.shape)} and {list(units)} "
                "units, which do not fit: fit it anew"
            )
        return cls(
            weight, tensors["bias"], tensors["output"], float(tensors["output_bias"].reshape(-1)[0])
        )


def features(evidence: Evidence) -> np.ndarray:
    """What a `SurvivalHead` sees, `[N, 6 + hidden]` float32."""
    width = 0 if evidence.hidden is None else evidence.hidden.shape[1]
    table = np.empty((len(evidence.log_prob), PLAIN_FEATURES + width), dtype=np.float32)
    match = np.minimum(evidence.match, MATCH_LIMIT) / MATCH_LIMIT
    margin = np.minimum(evidence.choice_margin, MARGIN_LIMIT)
    table[:, 0] = margin
    table[:, 1] = np.exp(-margin)
    table[:, 2] = match
    table[:, 3] = evidence.agrees
    table[:, 4] = match * evidence.agrees
    table[:, 5] = (match > 0) * (1.0 - evidence.agrees)
    if evidence.hidden is not None:
        table[:, PLAIN_FEATURES:] = evidence.hidden
    return table
