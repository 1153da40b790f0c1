"""Fits a survival head on recorded texts.

If everything before a position was accepted, the drafter reads the target's own text there. So one
pass over each text shows the drafter in every relevant situation, together with the answer: is its
choice the text's next token?
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from adaspec_rl.decoding.survival import (
    AGREEMENTS,
    LARGEST_ODDS,
    MARGINS,
    SURPRISES,
    Evidence,
    SurvivalHead,
    agreement_class,
    between,
)
from adaspec_rl.recording.drafts import Drafts
from adaspec_rl.recording.texts import Text

PRIOR = 2.0  # weight of the prior on looked-up numbers: those seen less often stay near 0
ROUGHNESS = 10.0  # weight of the steps between a curve's knots
STEPS = 60
SETTINGS = (PRIOR, ROUGHNESS, STEPS, MARGINS, SURPRISES)  # others give another head
FOLDS = 4


def examples(made: Iterable[tuple[Text, Drafts]]) -> tuple[Evidence, np.ndarray]:
    """Evidence and answers `[N]` (float32) from drafts of one token."""
    seen, answers = [], []
    for text, drafts in made:
        assert drafts.tokens.shape[1] == 1, "longer drafts leave the text"
        drafted = drafts.tokens[:, 0] >= 0  # elsewhere nothing was drafted
        evidence = drafts.evidence(text)
        seen.append(Evidence(*(getattr(evidence, name)[drafted] for name in Evidence.__slots__)))
        answers.append((drafts.tokens[:, 0] == text.tokens)[drafted].astype(np.float32))
    return joined(seen), np.concatenate(answers)


def joined(parts: Sequence[Evidence]) -> Evidence:
    """Joins several pieces of evidence into one."""
    names = Evidence.__slots__
    return Evidence(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})


def fit_head(
    seen: Evidence, answers: np.ndarray, vocab_size: int, *, log_probs: bool = True
) -> SurvivalHead:
    """Logistic regression with a Gaussian prior: a convex problem, so the result needs no seed.

    `log_probs=False` leaves the drafter's log-probability out. It costs a pass over the logits.
    With greedy choices it is nearly a function of the margin; under sampling it says how lucky the
    choice was.
    """
    rows = torch.from_numpy(agreement_class(seen.match, seen.agrees))
    margin, surprise = _hats(seen.choice_margin, MARGINS), _hats(-seen.log_prob, SURPRISES)
    token = torch.from_numpy(seen.token.astype(np.int64))
    previous = torch.from_numpy(seen.previous.astype(np.int64))
    truth = torch.from_numpy(answers.astype(np.float64))

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(*shape, dtype=torch.float64, requires_grad=True)

    by_margin, by_row = zeros(len(MARGINS)), zeros(AGREEMENTS)
    together = zeros(AGREEMENTS, len(MARGINS))
    tokens, after = zeros(vocab_size), zeros(vocab_size)
    by_surprise = zeros(len(SURPRISES))
    parameters = [by_margin, by_row, together, tokens, after, by_surprise]
    optimizer = torch.optim.LBFGS(parameters, max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        agreement = by_margin + by_row[:, None] + together
        odds = _at(agreement, margin, rows) + tokens[token] + after[previous]
        curves = [by_margin]
        if log_probs:
            odds = odds + _at(by_surprise, surprise)
            curves.append(by_surprise)
        error = F.binary_cross_entropy_with_logits(odds, truth, reduction="sum")
        prior = sum(values.square().sum() for values in (together, tokens, after))
        rough = sum(curve.diff().square().sum() for curve in curves)
        total = (error + PRIOR * prior + ROUGHNESS * rough) / len(truth)
        total.backward()
        return total

    optimizer.step(loss)
    with torch.no_grad():
        agreement = by_margin + by_row[:, None] + together
        used = by_surprise if log_probs else by_surprise[:0]
        arrays = [x.clamp(-LARGEST_ODDS, LARGEST_ODDS) for x in (agreement, used, tokens, after)]
    return SurvivalHead(*(array.numpy().astype(np.float32) for array in arrays))


Hats = tuple[torch.Tensor, torch.Tensor]  # index of the knot below, share of the way to the next


def _hats(values: np.ndarray, knots: tuple[float, ...]) -> Hats:
    index, share = between(values, knots)
    return torch.from_numpy(index), torch.from_numpy(share)


def _at(curves: torch.Tensor, hats: Hats, rows: torch.Tensor | None = None) -> torch.Tensor:
    """Values of curves `[knots]`, or `[rows, knots]` with a row for each value."""
    index, share = hats
    if rows is None:
        return torch.lerp(curves[index], curves[index + 1], share)
    return torch.lerp(curves[rows, index], curves[rows, index + 1], share)


def log_loss(head: SurvivalHead, seen: Evidence, answers: np.ndarray) -> float:
    """Mean negative log-likelihood of the answers, in nats."""
    chances = np.clip(head(seen), 1e-6, 1 - 1e-6)
    return float(-np.mean(answers * np.log(chances) + (1 - answers) * np.log(1 - chances)))
