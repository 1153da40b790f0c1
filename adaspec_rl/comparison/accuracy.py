"""What lossy verification costs: wrong answers, and texts that differ from the target's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from adaspec_rl.comparison.statistics import mean_interval
from adaspec_rl.engine.language_model import LanguageModel


class Task(Protocol):
    """A prompt whose answer can be checked."""

    @property
    def id(self) -> str: ...

    @property
    def text(self) -> str:
        """The prompt."""
        ...

    def answer_in(self, text: str) -> tuple[str, ...] | None:
        """The answer in the text written after the prompt; None: there is none."""
        ...

    def solved_by(self, text: str) -> bool:
        """Whether the text's answer is right."""
        ...


@dataclass(frozen=True, slots=True)
class Price:
    """The quality of a method's texts; all intervals are 95%, over the problems."""

    accuracy: float  # share of problems solved
    accuracy_ci95: tuple[float, float]
    accuracy_change: float  # difference from plain decoding, problem by problem
    accuracy_change_ci95: tuple[float, float]
    same_answer: float  # share of texts with plain decoding's answer, right or wrong
    same_answer_ci95: tuple[float, float]
    distance: float  # mean total variation from the target per token
    identical: float  # share of texts equal to plain decoding's, token for token
    # Of the texts under the target's own distribution, in nats per token, averaged over problems.
    log_likelihood: float
    log_likelihood_ci95: tuple[float, float]
    log_likelihood_change: float  # difference from plain decoding's texts
    log_likelihood_change_ci95: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Written:
    """One judged text of one method."""

    tokens: tuple[int, ...]
    answer: tuple[str, ...] | None
    solved: bool
    distance: float  # the sum over its tokens
    log_likelihood: float  # nats, the sum over its tokens


@torch.inference_mode()
def log_likelihood(target: LanguageModel, prompt: Sequence[int], tokens: Sequence[int]) -> float:
    """The target's log-likelihood of `tokens` after `prompt` at temperature 1, in nats.

    Raises:
        ValueError: the prompt is empty, or the text is longer than the target's context.
    """
    if not len(prompt):
        raise ValueError("the prompt is empty: expected at least 1 token")
    if not len(tokens):
        return 0.0
    read = torch.tensor([[*prompt, *tokens[:-1]]], device=target.device)
    target.reset(1, read.shape[1])
    logits = target.extend(read, keep=len(tokens))[0]  # [tokens, V]
    written = torch.tensor(tokens, device=target.device)[:, None]
    return float(logits.log_softmax(-1).gather(1, written).double().sum())


def price(
    own: Mapping[str, Written],
    plain: Mapping[str, Written],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Price:
    """Compare a method's texts with plain decoding's of the same problems, both by problem id.

    Raises:
        ValueError: there are no problems, or the two have different ones.
    """
    if not own or own.keys() != plain.keys():
        raise ValueError(f"expected the same problems, 1 or more, got {len(own)} and {len(plain)}")
    pairs = [(text, plain[name]) for name, text in own.items()]
    solved = np.array([[a.solved, b.solved] for a, b in pairs], dtype=np.float64)
    means = np.array([[_mean(a), _mean(b)] for a, b in pairs])
    same = np.array([a.answer == b.answer for a, b in pairs], dtype=np.float64)
    change, likelier = solved[:, 0] - solved[:, 1], means[:, 0] - means[:, 1]
    count = sum(len(text.tokens) for text in own.values())
    how = {"resamples": resamples, "seed": seed}
    return Price(
        accuracy=float(solved[:, 0].mean()),
        accuracy_ci95=mean_interval(solved[:, 0], **how),
        accuracy_change=float(change.mean()),
        accuracy_change_ci95=mean_interval(change, **how),
        same_answer=float(same.mean()),
        same_answer_ci95=mean_interval(same, **how),
        distance=sum(text.distance for text in own.values()) / max(1, count),
        identical=float(np.mean([a.tokens == b.tokens for a, b in pairs])),
        log_likelihood=float(means[:, 0].mean()),
        log_likelihood_ci95=mean_interval(means[:, 0], **how),
        log_likelihood_change=float(likelier.mean()),
        log_likelihood_change_ci95=mean_interval(likelier, **how),
    )


def _mean(text: Written) -> float:
    return text.log_likelihood / max(1, len(text.tokens))


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the points on the Pareto front, in the order of their first coordinate.

    A point is left out if another point is at least as high in both coordinates and higher in one.
    """
    front = [
        name
        for name, (x, y) in points.items()
        if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in points.values())
    ]
    return sorted(front, key=lambda name: points[name])
