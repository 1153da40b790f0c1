"""A drafter without a model: it proposes what followed the last time."""

import sys
from collections.abc import Callable, Sequence

import torch

from adaspec_rl.decoding.compiled_automaton import CompiledAutomaton
from adaspec_rl.decoding.draft import Draft
from adaspec_rl.decoding.drafters.drafter import Stop, compiled_stop
from adaspec_rl.decoding.stopping import ThresholdStop
from adaspec_rl.decoding.token_sequence import TokenSequence
from adaspec_rl.decoding.token_tree import TokenTree, chain_tree
from adaspec_rl.decoding.tree_shape import TreeGrowth, TreeShape
from adaspec_rl.decoding.verification import PointMass, Verification


class NgramLookup:
    """Copies what followed the longest earlier occurrence of the text's end, prompt included.

    Known as prompt lookup or n-gram drafting (arXiv:2304.04487); here the n-grams have any length.
    Each drafted token is a point mass. The draft is empty if the text's end has not occurred
    before.
    """

    name = "ngram"
    context_length = sys.maxsize
    model = None
    needs_hidden = False

    def __init__(self) -> None:
        self.starts = 0

    def prepare(self, length: int, progress: Callable[[float], None]) -> None:
        pass

    def start(self) -> None:
        self.starts += 1

    def propose(
        self, sequence: TokenSequence, length: int, rule: Verification, stop: Stop | None = None
    ) -> Draft:
        device, compiled = sequence.buffer.device, self._compiled(sequence, length, stop)
        if compiled is not None:
            return Draft(compiled.to(device, non_blocking=True))
        suffix = sequence.automaton.suffix()
        tokens: list[int] = []
        while suffix.guess is not None:
            token = suffix.guess
            tokens.append(token)
            if len(tokens) == length:
                break
            if stop is not None:
                stop.tell(None, PointMass(token))
                if stop():
                    break
            suffix.append(token)
        found = torch.tensor(tokens, dtype=torch.long)
        return Draft(found.to(device, non_blocking=True))

    def _compiled(
        self, sequence: TokenSequence, length: int, stop: Stop | None
    ) -> torch.Tensor | None:
        """The drafted tokens by compiled code, or None if there is none for that."""
        text, end = sequence.automaton, compiled_stop(stop)
        if end is None or not isinstance(text, CompiledAutomaton):
            return None
        tokens, chances = text.lookup(length, end.head, end.least)
        if isinstance(stop, ThresholdStop):
            stop.running.chances = chances.tolist()
        return torch.tensor(tokens, dtype=torch.long)

    def branch(
        self, sequence: TokenSequence, shape: TreeShape | TreeGrowth, rule: Verification
    ) -> TokenTree:
        """The tree's chain of first choices, as there is only one guess per node."""
        draft = self.propose(sequence, shape.chain_length, rule)
        return chain_tree(draft, 0, drawn=rule.needs_log_probs)

    def keep_path(self, length: int, nodes: Sequence[int]) -> None:
        pass

    def keep(self, length: int) -> None:
        pass  # only committed tokens are read

    def rest(self) -> None:
        pass
