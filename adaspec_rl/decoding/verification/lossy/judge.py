"""A mismatch is accepted if a learned judge expects the same answer with it."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from adaspec_rl.decoding.verification.lossy.rule import Seen

SCALARS = ("target_own", "target_pick", "draft_own", "draft_pick", "target_entropy")
LEAST_LOG_PROB = -20.0  # nats: all rarer tokens look the same to the judge


def judge_features(seen: Seen) -> torch.Tensor:
    """What a judge reads about each drafted token, `[k, hidden + drafter's hidden + 5]` float32.

    These are both models' states at the token, and `SCALARS`: the log-probabilities, under both
    models, of the drafted token and of the target's own pick, and the target's entropy.
    """
    states = seen.states
    assert states is not None
    tokens, picks = seen.tokens[:, None], seen.picks[:-1, None]
    both = (seen.log_probs[:-1], states.draft_log_probs)
    scalars = [log_probs.gather(1, ids) for log_probs in both for ids in (tokens, picks)]
    scalars = [values.clamp_min(LEAST_LOG_PROB) for values in scalars]
    parts = [states.target, states.draft, *scalars, seen.entropies[:, None]]
    return torch.cat([part.float() for part in parts], dim=1)


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """AutoJudge (arXiv:2504.20039): a logistic regression says whether a swap changes the answer.

    It judges the drafts of one drafter; all others are verified exactly.

    Raises:
        ValueError: `threshold` is not above 0 and below 1.
    """

    weights: torch.Tensor  # [features] float32
    bias: float
    mean: torch.Tensor  # [features], subtracted from the features
    scale: torch.Tensor  # [features], by which the features are then divided
    drafter: str  # the name of the drafter whose drafts it judges
    fingerprint: str  # of the pair it was trained for
    pair: str  # that pair's name
    threshold: float = 0.5  # accept a mismatch if the answer changes with less chance
    name: ClassVar[str] = "lossy.judge"
    needs_states: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(
                f"{self.name} needs a threshold above 0 and below 1, got {self.threshold}"
            )

    def at(self, threshold: float) -> "Judge":
        """The same judge with another threshold."""
        return replace(self, threshold=threshold)

    def check_pair(self, name: str, fingerprint: str) -> None:
        """Refuse any pair but the one that the judge was trained for."""
        if fingerprint != self.fingerprint:
            raise ValueError(
                f"the judge was trained for the pair {self.pair} ({self.fingerprint}) but this is "
                f"{name} ({fingerprint}): train one for it with python -m adaspec_rl.tools.judge"
            )

    def importance(self, features: torch.Tensor) -> torch.Tensor:
        """The chance `[k]` that a swap changes the answer, from `judge_features` `[k, F]`."""
        return (((features - self.mean) / self.scale) @ self.weights + self.bias).sigmoid()

    def keeps(self, seen: Seen) -> torch.Tensor:
        if seen.states is None:
            return torch.zeros_like(seen.agrees)
        return self.importance(judge_features(seen)) < self.threshold

    def __str__(self) -> str:
        return f"{self.name} threshold={self.threshold:g}"


def fit_judge(
    features: torch.Tensor, important: torch.Tensor, *, decay: float = 1e-2, steps: int = 200
) -> tuple[torch.Tensor, float, torch.Tensor, torch.Tensor]:
    """Fit a logistic regression by L-BFGS. Returns its weights, bias, mean and scale.

    Args:
        features: `[N, F]`.
        important: boolean `[N]`, whether the swap changed the answer.
        decay: penalty on the squared weights of the standardised features; it makes the minimum
            unique.

    Raises:
        ValueError: all swaps have the same label, so that there is nothing to learn.
    """
    if important.all() or not important.any():
        answer = "changed" if important.any() else "kept"
        raise ValueError(
            f"all {len(important)} swaps {answer} the answer: expected some that changed it and "
            "some that did not; take more problems, or a target that solves more of them"
        )
    mean, scale = features.mean(0), features.std(0).clamp_min(1e-6)
    inputs, labels = ((features - mean) / scale).double(), important.double()
    weights = torch.zeros(inputs.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        scores = inputs @ weights[:-1] + weights[-1]
        value = torch.nn.functional.binary_cross_entropy_with_logits(scores, labels)
        value = value + decay * weights[:-1].square().sum() / 2
        value.backward()
        return value

    optimiser.step(loss)
    found = weights.detach()
    if not all(math.isfinite(value) for value in found.tolist()):
        raise ValueError("the judge's regression diverged: expected finite features")
    return found[:-1].float(), float(found[-1]), mean, scale
