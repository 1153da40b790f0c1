"""The chance that a drafted token will be accepted, estimated before the target has seen it.

The product of these chances over a draft is the chance that all of it survives, which early
stopping compares with an action's threshold.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

MATCH_LIMIT = 8  # tokens; longer matches of the text's end count as this
MARGIN_LIMIT = 20.0  # nats, likewise
PLAIN_FEATURES = 7  # those of `SurvivalHead` that are not the hidden state


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

    weight: np.ndarray  # [7 + hidden, units] float32, feature scaling included
    bias: np.ndarray  # [units]
    output: np.ndarray  # [units]
    output_bias: float
    name = "head"
    needs_evidence = True

    def __call__(self, evidence: Evidence) -> np.ndarray:
        return self.chances(features(evidence))

    def chances(self, inputs: np.ndarray) -> np.ndarray:
        """Chances `[N]` of `features` `[N, 7 + hidden]`."""
        inner = np.tanh(inputs @ self.weight + self.bias)
        return 1.0 / (1.0 + np.exp(-(inner @ self.output + self.output_bias)))

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
    """What a `SurvivalHead` sees, `[N, 7 + hidden]` float32."""
    match = np.minimum(evidence.match, MATCH_LIMIT) / MATCH_LIMIT
    plain = np.stack(
        [
            evidence.log_prob,
            np.exp(evidence.log_prob),
            np.minimum(evidence.choice_margin, MARGIN_LIMIT),
            match,
            evidence.agrees,
            match * evidence.agrees,
            (match > 0) * (1.0 - evidence.agrees),
        ],
        axis=1,
    )
    parts = [plain] if evidence.hidden is None else [plain, evidence.hidden]
    return np.concatenate(parts, axis=1, dtype=np.float32)
