"""A drafter without a model: what followed the last time, it says, will follow again."""

import sys

import torch

from adaspec_rl.decoding.drafters.drafter import Draft, Stop
from adaspec_rl.decoding.suffix_automaton import SuffixAutomaton
from adaspec_rl.decoding.verification import PointMass, Verification


class NgramLookup:
    """Copies what followed the longest earlier occurrence of the text's end, prompt included.

    Known as prompt lookup or n-gram drafting (arXiv:2304.04487); here the n-grams have any length.
    A draft is a point mass; where nothing has occurred before, it is empty.
    """

    name = "ngram"
    context_length = sys.maxsize

    def __init__(self) -> None:
        self._text = SuffixAutomaton()
        self.starts = 0

    def start(self) -> None:
        self.starts += 1
        self._text.start(())

    def propose(
        self, sequence: torch.Tensor, length: int, rule: Verification, stop: Stop | None = None
    ) -> Draft:
        self._text.extend(sequence[len(self._text) :].tolist())
        suffix = self._text.suffix()
        tokens: list[int] = []
        while suffix.guess is not None:
            token = suffix.guess
            tokens.append(token)
            if len(tokens) == length or (stop is not None and stop(None, PointMass(token))):
                break
            suffix.append(token)
        return Draft(torch.tensor(tokens, dtype=torch.long, device=sequence.device))

    def keep(self, length: int) -> None:
        pass  # only committed tokens are read

    def rest(self) -> None:
        pass
