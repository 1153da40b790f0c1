"""What a text alone says about the text to come, however it was drafted."""

import math
from array import array
from collections.abc import Sequence

from adaspec_rl.decoding.compiled_automaton import Automaton, suffix_automaton
from adaspec_rl.decoding.survival import MATCH_LIMIT

LOOKUP_SPANS = (8.0, 32.0)  # tokens
# `(name, scale)` of each of `TextFeatures.values`.
TEXT_FEATURES = (
    ("generated", math.log1p(1024)),
    ("suffix_match", math.log2(1 + MATCH_LIMIT)),
    *((f"lookup_rate_{span:g}", 1.0) for span in LOOKUP_SPANS),
)
_DECAYS = array("d", (math.exp(-1.0 / span) for span in LOOKUP_SPANS))


class TextFeatures:
    """Follows one text: how far its end has occurred before, and whether lookup has paid.

    Attributes:
        values: ln(1 + tokens generated); log2(1 + length of the longest suffix that occurred
            earlier); and for each of `LOOKUP_SPANS` the share of recent tokens, prompt included,
            that followed the last occurrence of such a suffix. Computing these needs no draft.
        text: the prompt and everything after it.
    """

    values: tuple[float, ...]
    text: Automaton

    def __init__(self) -> None:
        self.start(())

    def start(self, prompt: Sequence[int]) -> None:
        """A text begins."""
        self.text = suffix_automaton()
        self._rates = array("d", [0.0] * len(LOOKUP_SPANS))
        self._prompt = len(prompt)
        self.extend(prompt)

    def extend(self, tokens: Sequence[int]) -> None:
        """Append `tokens`."""
        match = self.text.follow(tokens, self._rates, _DECAYS)
        generated = len(self.text) - self._prompt
        limited = math.log2(1 + min(match, MATCH_LIMIT))
        self.values = (math.log1p(generated), limited, *self._rates)
