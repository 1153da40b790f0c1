"""What policies observe of texts that a target and its drafters decode."""

from collections.abc import Sequence
from typing import Protocol

from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.decoding.drafters import Drafter
from adaspec_rl.decoding.drafters.foreseen import tables_among
from adaspec_rl.engine.language_model import LanguageModel


class Models(Protocol):
    """A target and its drafters."""

    @property
    def target(self) -> LanguageModel: ...

    @property
    def drafters(self) -> Sequence[Drafter]: ...


def pair_observation(
    pair: Models, groups: Sequence[str], max_length: int, *, trees: bool = False
) -> ObservationSpec:
    """The observation with these groups of features, for drafts of up to `max_length` tokens.

    Raises:
        ValueError: a group is unknown or named twice.
    """
    drafters = pair.drafters
    vocab_size, tables = pair.target.vocab_size, tables_among(drafters)
    return ObservationSpec(tuple(groups), max_length, vocab_size, len(drafters), trees, tables)
