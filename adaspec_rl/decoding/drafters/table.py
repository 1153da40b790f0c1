"""A drafter that looks up what its target usually writes, and what the text has said before."""

import sys
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch

from adaspec_rl.decoding.compiled_automaton import CompiledAutomaton, CompiledSuffix, TextEnd
from adaspec_rl.decoding.compiled_table import CompiledPick, compiled_picker
from adaspec_rl.decoding.draft import Draft
from adaspec_rl.decoding.drafters.branching import grown
from adaspec_rl.decoding.drafters.drafter import Stop
from adaspec_rl.decoding.picks import Pick, spread
from adaspec_rl.decoding.survival import Survival, SurvivalHead
from adaspec_rl.decoding.token_sequence import TokenSequence
from adaspec_rl.decoding.token_tree import TokenTree
from adaspec_rl.decoding.tree_shape import TreeGrowth, TreeShape
from adaspec_rl.decoding.trigrams import NONE, Candidates, TrigramTable
from adaspec_rl.decoding.verification import Rejection, Verification


class TableDrafter:
    """Picks tokens from short lists as the verification rule would: with its noise, or at random.

    It runs no model and takes a few microseconds per token.
    """

    context_length = sys.maxsize
    model = None
    needs_hidden = False

    def __init__(self, table: TrigramTable, vocab_size: int, name: str = "table") -> None:
        """`vocab_size` is the target's."""
        self.name, self.table, self.vocab_size = name, table, vocab_size
        self.starts = 0
        self._ahead: _Chain | None = None  # picked before anything is drafted

    def __getstate__(self) -> dict[str, Any]:
        """Copied and unpickled drafters pick anew."""
        return {**self.__dict__, "_ahead": None}

    def prepare(self, length: int, progress: Callable[[float], None]) -> None:
        pass

    def start(self) -> None:
        self.starts += 1

    def propose(
        self, sequence: TokenSequence, length: int, rule: Verification, stop: Stop | None = None
    ) -> Draft:
        chain = self._chain(sequence, rule)
        count = 1
        while count < length:
            if stop is not None:
                stop.tell(None, chain.pick(count))
                if stop():
                    break
            count += 1
        chain.pick(count)
        return _draft(chain.picks[:count], sequence.buffer.device, self.vocab_size, rule)

    def chances(
        self,
        sequence: TokenSequence,
        rule: Verification,
        survival: Survival,
        *,
        length: int,
        least: float,
    ) -> list[float]:
        """The estimated chance of each token of a draft, given that all before it survive.

        The draft ends after `length` tokens, or after the token at which the chance that all of it
        survives falls under `least`. A draft after the same text goes on from it.
        """
        self._ahead = chain = _Chain(self.table, sequence, rule)
        return chain.chances(survival, length, least)

    def _chain(self, sequence: TokenSequence, rule: Verification) -> "_Chain":
        known = self._ahead
        if known is not None and known.follows(sequence, rule):
            return known
        return _Chain(self.table, sequence, rule)

    def branch(
        self, sequence: TokenSequence, shape: TreeShape | TreeGrowth, rule: Verification
    ) -> TokenTree:
        choices = _TableChoices(self.table, sequence, rule, self.vocab_size)
        return grown(choices, shape, drawn=rule.needs_log_probs)

    def keep_path(self, length: int, nodes: Sequence[int]) -> None:
        pass

    def keep(self, length: int) -> None:
        pass  # only committed tokens are read

    def rest(self) -> None:
        pass


class _Chain:
    """Picks after a text, made when they are asked for."""

    def __init__(self, table: TrigramTable, sequence: TokenSequence, rule: Verification) -> None:
        self._table, self._sequence, self._rule = table, sequence, rule
        self._position, self._last = len(sequence), sequence.tokens[-1]
        self._previous = sequence.tokens[-2] if self._position > 1 else NONE
        self._suffix = sequence.automaton.suffix()
        self.picks: list[Pick | CompiledPick] = []
        self._picker = compiled_picker(table, rule)

    def follows(self, sequence: TokenSequence, rule: Verification) -> bool:
        """Whether these are picks after `sequence` as it is now, by the same rule."""
        same = sequence is self._sequence and rule is self._rule
        return same and len(sequence) == self._position

    def pick(self, number: int) -> Pick | CompiledPick:
        """Pick number 1, 2, and so on."""
        picks, rule, suffix = self.picks, self._rule, self._suffix
        while len(picks) < number:
            if picks:
                self._previous, self._last = self._last, picks[-1].token
                suffix.append(self._last)
            position = self._position + len(picks)
            if self._picker is not None:
                picks.append(self._picker(self._previous, self._last, suffix, position))
            else:
                candidates = self._table.after(self._previous, self._last, suffix)
                picks.append(rule.pick(candidates, position))
        return picks[number - 1]

    def chances(self, survival: Survival, length: int, least: float) -> list[float]:
        """Make the first picks, and estimate the chance of each; see `TableDrafter.chances`."""
        text, suffix = self._sequence.automaton, self._suffix
        if (
            self._picker is not None
            and isinstance(text, CompiledAutomaton)
            and isinstance(suffix, CompiledSuffix)
            and isinstance(survival, SurvivalHead)
        ):
            before = self._previous, self._last
            picks, found = self._picker.chances(
                text, suffix, before, survival.compiled, length, least
            )
            self.picks = [*picks]
            *_, self._previous, self._last = *before, *(pick.token for pick in picks[:-1])
            return found
        found = []
        whole = 1.0
        while len(found) < length and whole >= least:
            found.append(self._next_chance(survival))
            whole *= found[-1]
        return found

    def _next_chance(self, survival: Survival) -> float:
        """Make one more pick, and estimate its chance."""
        pick, suffix = self.pick(len(self.picks) + 1), self._suffix
        token, margin = pick.weighed()
        agrees = suffix.guess == token
        log_prob = pick.log_prob() if survival.needs_log_prob else 0.0
        return survival.one(token, self._last, log_prob, margin, suffix.match, agrees)


def _draft(
    picks: Sequence[Pick | CompiledPick],
    device: torch.device,
    vocab_size: int,
    rule: Verification,
) -> Draft:
    log_probs = None
    if rule.needs_log_probs:
        log_probs = spread([pick for pick in picks if isinstance(pick, Pick)], vocab_size, device)
    tokens = torch.tensor([pick.token for pick in picks])
    return Draft(tokens.to(device, non_blocking=True), log_probs=log_probs, picks=picks)


class _TableChoices:
    """The table's choices after the nodes of a tree."""

    def __init__(
        self, table: TrigramTable, sequence: TokenSequence, rule: Verification, vocab_size: int
    ) -> None:
        self._table, self._rule, self._vocab_size = table, rule, vocab_size
        self._device = sequence.buffer.device
        previous = sequence.tokens[-2] if len(sequence) > 1 else NONE
        root = _Place(previous, sequence.tokens[-1], len(sequence), sequence.automaton.suffix())
        self._places = {-1: root}
        self._picks: list[Pick] = []  # the first one after each node
        self._ranked: list[list[Pick]] = []

    def after(
        self, nodes: Sequence[int], tokens: Sequence[int], parents: Sequence[int], most: list[int]
    ) -> list[list[int]]:
        self._ranked = []
        for node, count in zip(nodes, most):
            if node not in self._places:
                self._places[node] = self._places[parents[node]].followed(tokens[node])
            place = self._places[node]
            candidates = self._table.after(place.previous, place.last, place.suffix)
            picks = ranked(self._rule, candidates, place.position, count)
            self._picks.append(picks[0])
            self._ranked.append(picks)
        return [[pick.token for pick in picks] for picks in self._ranked]

    def confidences(self) -> list[list[float]]:
        return [[pick.confidence() for pick in picks] for picks in self._ranked]

    def renumber(self, nodes: Sequence[int]) -> None:
        pass  # nothing was read

    def log_probs(self) -> torch.Tensor:
        return spread(self._picks, self._vocab_size, self._device)

    def chain(self, asked: Sequence[int]) -> Draft:
        picks = [self._picks[number] for number in asked]
        return _draft(picks, self._device, self._vocab_size, self._rule)


@dataclass(frozen=True, slots=True)
class _Place:
    """A place in a text and its draft, given by what comes before it."""

    previous: int
    last: int
    position: int  # of the next token
    suffix: TextEnd

    def followed(self, token: int) -> "_Place":
        suffix = copy(self.suffix)
        suffix.append(token)
        return _Place(self.last, token, self.position + 1, suffix)


def ranked(rule: Verification, candidates: Candidates, position: int, count: int) -> list[Pick]:
    """Up to `count` picks as `Verification.pick` would choose them, best first.

    Under rejection sampling they are drawn without replacement.
    """
    best = rule.pick(candidates, position)
    if count == 1:
        return [best]
    scores = best.scores
    if isinstance(rule, Rejection):
        waits = torch.empty(len(scores), device=rule.generator.device)
        scores = scores - waits.exponential_(generator=rule.generator).log_().cpu().numpy()
    order = (-scores).argsort(kind="stable")[:count].tolist()
    return [replace(best, index=index) for index in order]
