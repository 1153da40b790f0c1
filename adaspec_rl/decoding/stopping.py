"""Early stopping within a draft, by the estimated chance that all of it survives."""

import math
from collections.abc import Sequence

import numpy as np
import torch

from adaspec_rl.decoding.round import DraftedToken, StopRule
from adaspec_rl.decoding.signals import draft_signals
from adaspec_rl.decoding.suffix_automaton import SuffixAutomaton
from adaspec_rl.decoding.survival import Evidence, Survival
from adaspec_rl.decoding.verification import Choice, PointMass


class RunningSurvival:
    """Follows one draft: the estimated chance that all of its tokens so far survive.

    Attributes:
        chances: estimated for each token.
    """

    def __init__(self, survival: Survival, text: SuffixAutomaton, previous: int) -> None:
        """`previous` is the last committed token, which `text` ends with."""
        self.chances: list[float] = []
        self._survival = survival
        self._previous = previous
        self._suffix = text.suffix() if survival.needs_match else None
        self._all = 1.0

    def append(self, choice: Choice | PointMass) -> float:
        """The chance that the draft survives with this token at its end."""
        survival, suffix = self._survival, self._suffix
        log_prob = choice.log_prob() if survival.needs_log_prob else 0.0
        if suffix is None:
            chance = survival.one(0, 0, log_prob, 0.0, 0, False)
        else:
            token, margin = choice.weighed()
            if self.chances:  # only now is it known that the token before is of use
                suffix.append(self._previous)
            agrees = suffix.guess == token
            chance = survival.one(token, self._previous, log_prob, margin, suffix.match, agrees)
            self._previous = token
        self.chances.append(chance)
        self._all *= chance
        return self._all


class ThresholdStop:
    """Stops a draft after the token at which its estimated survival falls under `threshold`."""

    def __init__(self, threshold: float, running: RunningSurvival) -> None:
        self.threshold = threshold
        self.running = running

    def __call__(self, logits: torch.Tensor | None, choice: Choice | PointMass) -> bool:
        return self.running.append(choice) < self.threshold


class RuleStop:
    """Asks a rule, telling it what it needs to know."""

    def __init__(self, rule: StopRule, running: RunningSurvival | None) -> None:
        """`running` is None where the rule does not need the survival."""
        self.rule = rule
        self.running = running
        self._entropy = "entropy" in rule.needs
        self._depth = 0

    def __call__(self, logits: torch.Tensor | None, choice: Choice | PointMass) -> bool:
        self._depth += 1
        entropy = 0.0
        if self._entropy and logits is not None and isinstance(choice, Choice):
            found = draft_signals(
                logits[None], choice.token, choice.log_probs[None], choice.scores[None]
            )
            log_prob, entropy = found[0, :2].tolist()
        else:
            log_prob = choice.log_prob()
        survival = self.running.append(choice) if self.running else 1.0
        return self.rule(DraftedToken(self._depth, math.exp(log_prob), entropy, survival))


def agreement(text: SuffixAutomaton, drafted: Sequence[int]) -> tuple[list[int], list[bool]]:
    """Match length before each drafted token, and whether the token is what followed there."""
    suffix = text.suffix()
    match, agrees = [], []
    for token in drafted:
        match.append(suffix.match)
        agrees.append(suffix.guess == token)
        suffix.append(token)
    return match, agrees


def chances(
    survival: Survival,
    signals: np.ndarray,
    text: SuffixAutomaton,
    drafted: Sequence[int],
    previous: int,
) -> np.ndarray:
    """Chances `[k]` of drafted tokens after `previous`, given their signals `[k, 4]`."""
    match, agrees = agreement(text, drafted) if survival.needs_match else ([], [])
    tokens = np.array([previous, *drafted], dtype=np.int64)
    return survival(
        Evidence(
            token=tokens[1:],
            previous=tokens[:-1],
            log_prob=signals[:, 0],
            choice_margin=signals[:, 3],
            match=np.array(match),
            agrees=np.array(agrees),
        )
    )
