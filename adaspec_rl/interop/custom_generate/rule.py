"""A verification rule that lets transformers' processors and criteria decide, token by token."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

from adaspec_rl.decoding.noise import GumbelNoise
from adaspec_rl.decoding.picks import Pick
from adaspec_rl.decoding.trigrams import Candidates
from adaspec_rl.decoding.verification import Choice, Coupled, Greedy, Perturbation
from adaspec_rl.interop.custom_generate.processing import Ending, reads_text


class Processed:
    """Accepts drafted tokens as long as plain decoding would have chosen them.

    At each position, the processors see the text so far, their scores determine the target's pick,
    and the criteria see the text with the pick. Processing stops at the first pick that differs
    from the draft or ends the text. So each position is processed once and in order, and processors
    may keep a state. When sampling, target and drafters pick with the same Gumbel noise of (seed,
    position): the text depends on prompt and seed alone, and its distribution is the target's
    (arXiv:2408.07978).

    Attributes:
        ended: the length, padding included, at which the text first ended; None: not yet.
        scores: after the processors, `[V]` per token; None: not kept.
        logits: before the processors, likewise.
    """

    needs_log_probs = False

    def __init__(
        self,
        drafting: Greedy | Coupled,
        padded_prompt: torch.Tensor,
        room: int,
        processors: LogitsProcessorList,
        criteria: StoppingCriteriaList,
        *,
        goes_on: bool = False,
        keep_scores: bool = False,
        keep_logits: bool = False,
    ) -> None:
        """
        Args:
            drafting: how drafters choose.
            padded_prompt: `[n]`, as processors and criteria see it.
            room: the most tokens of the text, padding included.
            goes_on: whether the text continues after its end.
        """
        self._drafting = drafting
        self._noise: GumbelNoise | None = None
        if isinstance(drafting, Coupled):
            self._noise = drafting.noise
        self._length = len(padded_prompt)
        self._text = padded_prompt.new_zeros(1, max(room, self._length))
        self._text[0, : self._length] = padded_prompt
        self._processors: Any = processors
        self._at_once = not any(map(reads_text, processors))
        self._ending, self._goes_on = Ending(criteria), goes_on
        self.ended: int | None = None
        self.scores: list[torch.Tensor] | None = [] if keep_scores else None
        self.logits: list[torch.Tensor] | None = [] if keep_logits else None

    @property
    def length(self) -> int:
        """The text's length in tokens, padding included."""
        return self._length

    @property
    def finished(self) -> bool:
        """Whether the text is finished."""
        return self.ended is not None and not self._goes_on

    def propose(
        self, logits: torch.Tensor, position: int, ids: torch.Tensor | None = None
    ) -> Choice:
        return self._drafting.propose(logits, position, ids)

    def perturbation(
        self, positions: Sequence[int], ids: torch.Tensor | None = None
    ) -> Perturbation | None:
        return self._drafting.perturbation(positions, ids)

    def pick(self, candidates: Candidates, position: int) -> Pick:
        return self._drafting.pick(candidates, position)

    def weigh(
        self, logits: torch.Tensor, positions: Sequence[int], ids: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self._drafting.weigh(logits, positions, ids)

    def verify(
        self,
        logits: torch.Tensor,
        tokens: torch.Tensor,
        draft_log_probs: torch.Tensor | None,
        position: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        chain = [{token: place} for place, token in enumerate(tokens.tolist())]
        children: list[dict[int, int]] = [*chain[1:], {}, *chain[:1]]
        known = self._all_picks(logits, position) if self._at_once else None
        path, pick = self.walk(logits, children, position, known)
        found = torch.tensor([len(path), pick], device=logits.device)
        return found[0], found[1]

    def walk(
        self,
        logits: torch.Tensor,
        children: Sequence[Mapping[int, int]],
        position: int,
        known: tuple[torch.Tensor, list[int]] | None = None,
    ) -> tuple[list[int], int]:
        """The accepted path of a token tree, see `Walks`; `known` has a chain's `_all_picks`."""
        path: list[int] = []
        while True:
            place = path[-1] + 1 if path else 0
            if known is None:
                row = self._processed(logits[place : place + 1])
                pick = int(self._picked(row, position + len(path))[0])
            else:
                row, pick = known[0][place : place + 1], known[1][place]
            self._take(pick, logits[place], row)
            below = children[place - 1].get(pick)
            if below is None or self.finished:
                return path, pick
            path.append(below)

    def _all_picks(self, logits: torch.Tensor, position: int) -> tuple[torch.Tensor, list[int]]:
        """Scores `[k + 1, V]` and picks, for processors that do not read the text."""
        scores = self._processed(logits)
        return scores, self._picked(scores, position).tolist()

    def _processed(self, logits: torch.Tensor) -> torch.Tensor:
        if not self._processors:
            return logits
        text = self._text[:, : self._length].expand(len(logits), -1)
        scores: torch.Tensor = self._processors(text, logits.clone())
        return scores

    def _picked(self, scores: torch.Tensor, position: int) -> torch.Tensor:
        if self._noise is not None:
            scores = scores + self._noise.at(range(position, position + len(scores)))
        return scores.argmax(-1)

    def _take(self, pick: int, logits: torch.Tensor, scores: torch.Tensor) -> None:
        """Append a token to the text."""
        self._text[0, self._length] = pick
        self._length += 1
        if self.scores is not None:
            self.scores.append(scores[0].clone())
        if self.logits is not None:
            self.logits.append(logits.clone())
        if self.ended is None and self._ending(self._text[:, : self._length], pick, self.scores):
            self.ended = self._length
