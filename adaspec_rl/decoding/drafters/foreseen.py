"""What drafters that need no model would gain now, before anything is drafted."""

from collections.abc import Sequence

from adaspec_rl.decoding.drafters.drafter import Drafter
from adaspec_rl.decoding.drafters.ngram import NgramLookup
from adaspec_rl.decoding.drafters.table import TableDrafter
from adaspec_rl.decoding.forecast import (
    DEPTH,
    NEGLIGIBLE,
    NO_FORECAST,
    Forecast,
    expected,
    forecast,
)
from adaspec_rl.decoding.survival import Survival
from adaspec_rl.decoding.token_sequence import TokenSequence
from adaspec_rl.decoding.verification import Verification


class Foreseen:
    """The n-gram lookup and the tables among some drafters."""

    def __init__(self, drafters: Sequence[Drafter], survival: Sequence[Survival]) -> None:
        pairs = list(zip(drafters, survival))
        self._lookups = [own for drafter, own in pairs if isinstance(drafter, NgramLookup)]
        self._tables = [
            (drafter, own) for drafter, own in pairs if isinstance(drafter, TableDrafter)
        ]

    def __call__(
        self, sequence: TokenSequence, rule: Verification, tables: bool = True
    ) -> Forecast:
        """The lookup's two numbers, zeros without one, then two of each table.

        Under rejection sampling, a table's are zeros: what is drafted must not depend on the tokens
        that would be drawn.
        """
        found = NO_FORECAST
        for survival in self._lookups[:1]:
            found = forecast(sequence.automaton, survival)
        for drafter, survival in self._tables if tables else ():
            chances: list[float] = []
            if not rule.needs_log_probs:
                chances = drafter.chances(sequence, rule, survival, length=DEPTH, least=NEGLIGIBLE)
            found += expected(chances)
        return found


def tables_among(drafters: Sequence[Drafter]) -> int:
    """How many of the drafters are tables."""
    return sum(isinstance(drafter, TableDrafter) for drafter in drafters)
