"""Early stopping within a draft, by the estimated chance that all of it survives."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from adaspec_rl.decoding.compiled_automaton import (
    Automaton,
    CompiledAutomaton,
    CompiledSuffix,
)
from adaspec_rl.decoding.compiled_table import CompiledPick
from adaspec_rl.decoding.picks import Pick
from adaspec_rl.decoding.round import DraftedToken, StopRule
from adaspec_rl.decoding.signals import draft_signals
from adaspec_rl.decoding.suffix_automaton import Suffix
from adaspec_rl.decoding.survival import Survival, SurvivalHead
from adaspec_rl.decoding.verification import Choice, PointMass
from adaspec_rl.engine.cpu.decoder import StopBelow
from adaspec_rl.engine.reading import Reading

Chosen = Choice | PointMass | Pick | CompiledPick  # what is known about a drafted token


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known about a drafted token; a field that was not asked for is 0."""

    token: int
    log_prob: float = 0.0  # nats, in what it was chosen from
    margin: float = 0.0  # how far its score is above every other's
    entropy: float = 0.0  # nats, of the drafter's own distribution


def look(
    logits: torch.Tensor | None,
    choice: Chosen,
    needs: frozenset[str],
) -> Callable[[], Seen]:
    """Ask for fields of `Seen`; the function returned gives them when they are wanted.

    On the CPU, that function computes them. On other devices, the device computes them now and
    sends them to the host in the background, and only that function waits.
    """
    if isinstance(choice, PointMass):
        return partial(Seen, choice.token)
    if isinstance(choice, Pick | CompiledPick):
        return partial(_look_at_pick, choice, needs)
    assert logits is not None
    if choice.token.device.type == "cpu":
        return partial(_look_here, logits, choice, needs)
    return partial(_arrived, Reading(_look_there(logits, choice, needs)), needs)


def _look_at_pick(pick: Pick | CompiledPick, needs: frozenset[str]) -> Seen:
    token, margin = pick.weighed() if "margin" in needs else (pick.token, 0.0)
    log_prob = pick.log_prob() if "log_prob" in needs else 0.0
    entropy = pick.entropy if "entropy" in needs else 0.0
    return Seen(token, log_prob, margin, entropy)


def _look_here(logits: torch.Tensor, choice: Choice, needs: frozenset[str]) -> Seen:
    entropy = log_prob = margin = 0.0
    if "margin" in needs:
        token, margin = choice.weighed()
    else:
        token = int(choice.token.item())
    if "entropy" in needs:
        found = draft_signals(
            logits[None],
            choice.place,
            choice.log_probs[None],
            choice.scores[None],
            normalised=choice.normalised,
        )
        log_prob, entropy = found[0, :2].tolist()
    elif "log_prob" in needs:
        log_prob = choice.log_prob()
    return Seen(token, log_prob, margin, entropy)


def _look_there(logits: torch.Tensor, choice: Choice, needs: frozenset[str]) -> torch.Tensor:
    """The token and the fields of `needs` in alphabetical order, float64."""
    ways = {
        "entropy": lambda: torch.special.entr(logits.softmax(-1)).sum(),
        "log_prob": choice.log_prob_on_device,
        "margin": choice.margin_on_device,
    }
    found = [choice.token[0].double(), *(ways[name]().double() for name in sorted(needs))]
    return torch.stack(found)


def _arrived(reading: Reading, needs: frozenset[str]) -> Seen:
    token, *values = reading.wait()
    return Seen(int(token), **dict(zip(sorted(needs), values)))


class RunningSurvival:
    """Follows one draft and estimates the chance that all of its tokens so far survive.

    Attributes:
        chances: the estimate for each token.
        needs: the fields of `Seen` that estimates are made from.
    """

    def __init__(self, survival: Survival, text: Automaton, previous: int) -> None:
        """`previous` is the last committed token, which `text` ends with."""
        self.chances: list[float] = []
        wanted = {"log_prob": survival.needs_log_prob, "margin": survival.needs_match}
        self.needs = frozenset(name for name, needed in wanted.items() if needed)
        self._survival, self._text = survival, text
        self._previous = previous
        self._suffix: Suffix | CompiledSuffix | None = None  # from the first token on
        self._all = 1.0

    def append(self, seen: Seen) -> float:
        """Add a token. Returns the chance that the draft survives up to and including it."""
        survival = self._survival
        if not survival.needs_match:
            chance = survival.one(0, 0, seen.log_prob, 0.0, 0, False)
        else:
            token = seen.token
            if self._suffix is None:
                self._suffix = self._text.suffix()
            else:  # only now is the token before needed
                self._suffix.append(self._previous)
            suffix = self._suffix
            agrees = suffix.guess == token
            chance = survival.one(
                token, self._previous, seen.log_prob, seen.margin, suffix.match, agrees
            )
            self._previous = token
        self.chances.append(chance)
        self._all *= chance
        return self._all

    def compiled(self, least: float) -> StopBelow | None:
        """The same in compiled code, for a draft that ends below `least`; None: there is none."""
        survival, text = self._survival, self._text
        if isinstance(survival, SurvivalHead) and isinstance(text, CompiledAutomaton):
            return StopBelow(text.address, survival.compiled.address, self._previous, least)
        return None


class ThresholdStop:
    """Stops a draft after the token at which its estimated survival falls under `threshold`."""

    def __init__(self, threshold: float, running: RunningSurvival) -> None:
        self.threshold = threshold
        self.running = running
        self._told: Callable[[], Seen]

    def tell(self, logits: torch.Tensor | None, choice: Chosen) -> None:
        self._told = look(logits, choice, self.running.needs)

    def __call__(self) -> bool:
        return self.running.append(self._told()) < self.threshold


class RuleStop:
    """Stops a draft when a rule says so."""

    def __init__(self, rule: StopRule, running: RunningSurvival | None) -> None:
        """`running` is None where the rule does not need the survival."""
        self.rule = rule
        self.running = running
        self._needs = frozenset({"log_prob"} | ({"entropy"} & rule.needs))
        if running:
            self._needs |= running.needs
        self._depth = 0
        self._told: Callable[[], Seen]

    def tell(self, logits: torch.Tensor | None, choice: Chosen) -> None:
        self._told = look(logits, choice, self._needs)

    def __call__(self) -> bool:
        seen = self._told()
        self._depth += 1
        survival = self.running.append(seen) if self.running else 1.0
        return self.rule(DraftedToken(self._depth, math.exp(seen.log_prob), seen.entropy, survival))


def agreement(text: Automaton, drafted: Sequence[int]) -> tuple[list[int], list[bool]]:
    """Match length before each drafted token, and whether the token is what followed the match."""
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
    text: Automaton,
    drafted: Sequence[int],
    previous: int,
) -> list[float]:
    """The chances of drafted tokens after `previous`, given their signals `[k, 4]`."""
    match, agrees = [0] * len(drafted), [False] * len(drafted)
    if survival.needs_match:
        match, agrees = agreement(text, drafted)
    before = [previous, *drafted]
    columns = (drafted, before, signals[:, 0].tolist(), signals[:, 3].tolist(), match, agrees)
    # One by one: for as few as a draft has, array operations take longer.
    return [survival.one(*values) for values in zip(*columns)]
