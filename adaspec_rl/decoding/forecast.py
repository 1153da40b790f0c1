"""What drafters without a model would gain now, estimated before drafting and at almost no cost.

A drafter has two numbers: the tokens expected to be accepted, and the chance of the first one.
"""

import itertools
import operator
from collections.abc import Sequence

import numpy as np

from adaspec_rl.decoding.compiled_automaton import Automaton, CompiledAutomaton
from adaspec_rl.decoding.survival import Survival, SurvivalHead

DEPTH = 8  # tokens that are looked ahead
NEGLIGIBLE = 0.05  # chance of survival below which the rest is left out

Forecast = tuple[float, ...]  # two numbers of the n-gram lookup, then two of each table
NO_FORECAST: Forecast = (0.0, 0.0)


def forecast(text: Automaton, survival: Survival) -> Forecast:
    """Forecast a draft of up to `DEPTH` tokens after `text`, by the lookup's survival estimate."""
    if isinstance(text, CompiledAutomaton) and isinstance(survival, SurvivalHead):
        return survival.compiled.forecast(text, DEPTH, NEGLIGIBLE)
    suffix, previous = text.suffix(), text.tokens[-1]
    chance, expected, first = 1.0, 0.0, 0.0
    for depth in range(DEPTH):
        token = suffix.guess
        if token is None or chance < NEGLIGIBLE:
            break
        chance *= survival.one(token, previous, 0.0, 0.0, suffix.match, True)
        expected += chance
        if not depth:
            first = chance
        suffix.append(token)
        previous = token
    return expected, first


def expected(chances: Sequence[float]) -> Forecast:
    """The two numbers of a draft whose tokens survive with these chances, one after another."""
    if not chances:
        return NO_FORECAST
    return sum(itertools.accumulate(chances, operator.mul)), chances[0]


def forecasts(tokens: np.ndarray, survival: np.ndarray) -> np.ndarray:
    """Forecasts `[M, 2]` of recorded drafts `[M, K]` (-1: no token) with survival `[M, K]`."""
    chances = np.where(tokens >= 0, survival, 0.0)[:, :DEPTH].astype(np.float64)
    before = np.column_stack([np.ones(len(chances)), chances[:, :-1]])
    expected = np.where(before >= NEGLIGIBLE, chances, 0.0).sum(axis=1)
    return np.column_stack([expected, chances[:, 0]])
