"""Teacher texts packed into windows of tokens: a batch is a pure function of (seed, step)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from adaspec_rl.tools.distillation.shared_drafter import Batch
from adaspec_rl.tools.distillation.teacher_texts import TeacherText

OUTSIDE = -1  # the output row of a token that the drafter cannot output


@dataclass(frozen=True, slots=True)
class Lesson:
    """A batch, and the target's distributions at the positions whose next token it wrote."""

    batch: Batch
    taught: torch.Tensor  # [B, L] bool, whether the target chose the token after this one
    choices: torch.Tensor  # [N, CHOICES] int64 for the N taught positions: output rows, or OUTSIDE
    log_probs: torch.Tensor  # [N, CHOICES] float32

    def to(self, device: torch.device | str) -> "Lesson":
        taught, choices = self.taught.to(device), self.choices.to(device)
        return Lesson(self.batch.to(device), taught, choices, self.log_probs.to(device))


class TeacherWindows:
    """Windows cut from all texts in a row; each pass over the texts has an order of its own."""

    def __init__(
        self,
        texts: Sequence[TeacherText],
        output_rows: np.ndarray | None,
        vocab_size: int,
        *,
        reads_hidden: bool,
    ) -> None:
        """`output_rows`: the tokens that the drafter can output, ascending; None: all."""
        self._texts, self._reads_hidden = texts, reads_hidden
        self._places = np.arange(vocab_size)
        if output_rows is not None:
            self._places = np.full(vocab_size, OUTSIDE)
            self._places[output_rows] = np.arange(len(output_rows))
        self.tokens = sum(len(text.tokens) for text in texts)
        self._pass: tuple[int, int, np.ndarray, np.ndarray] | None = None

    def batch(self, seed: int, step: int, rows: int, length: int) -> Lesson:
        """`rows` windows of `length` tokens.

        Raises:
            ValueError: the texts are shorter than one window.
        """
        whole = self.tokens // length  # windows in a pass
        if not whole:
            raise ValueError(
                f"the texts hold {self.tokens} tokens, fewer than a window of "
                f"sequence_length={length}: write more texts, or shorten it"
            )
        windows = []
        for number in range(step * rows, (step + 1) * rows):
            turn, place = divmod(number, whole)
            windows.append(self._window(seed, turn, place * length, length))
        features = None
        if self._reads_hidden:
            features = torch.stack(
                [torch.cat([p.features() for p in window]) for window in windows]
            )
        parts = [part for window in windows for part in window]
        ids = np.concatenate([part.text.choice_ids[part.answers] for part in parts])
        log_probs = np.concatenate([part.text.choice_log_probs[part.answers] for part in parts])
        batch = Batch(
            _rows(windows, lambda part, n: part.text.tokens[part.places].astype(np.int64)),
            features,
            _rows(windows, lambda part, n: np.full(len(part.places), n)),
            _rows(windows, lambda part, n: part.places),
        )
        return Lesson(
            batch,
            _rows(windows, lambda part, n: part.taught),
            torch.from_numpy(self._places[ids]),
            torch.from_numpy(log_probs.astype(np.float32)),
        )

    def _window(self, seed: int, turn: int, start: int, length: int) -> list["_Part"]:
        """The `length` tokens from `start` on of pass `turn`."""
        order, ends = self._order(seed, turn)
        number = int(np.searchsorted(ends, start, side="right"))
        parts: list[_Part] = []
        have = 0
        while have < length:
            text = self._texts[order[number]]
            begin = max(0, start - (int(ends[number]) - len(text.tokens)))
            stop = min(len(text.tokens), begin + length - have)
            parts.append(_Part(text, np.arange(begin, stop)))
            have += stop - begin
            number += 1
        return parts

    def _order(self, seed: int, turn: int) -> tuple[np.ndarray, np.ndarray]:
        """The texts of pass `turn`, and where each of them ends."""
        if self._pass is None or self._pass[:2] != (seed, turn):
            order = np.random.default_rng((seed, turn)).permutation(len(self._texts))
            ends = np.cumsum([len(self._texts[n].tokens) for n in order])
            self._pass = (seed, turn, order, ends)
        return self._pass[2:]


@dataclass(frozen=True, slots=True)
class _Part:
    """Successive tokens of one text."""

    text: TeacherText
    places: np.ndarray

    @property
    def taught(self) -> np.ndarray:
        """Which tokens are taught: from the prompt's last token to the answer's last but one."""
        first, last = self.text.prompt_length - 1, len(self.text.tokens) - 1
        return (self.places >= first) & (self.places < last)

    @property
    def answers(self) -> np.ndarray:
        """The numbers, within the answer, of the tokens that follow the taught ones."""
        return self.places[self.taught] - (self.text.prompt_length - 1)

    def features(self) -> torch.Tensor:
        """The target's hidden state before each token, `[n, hidden]`; zeros before the first."""
        first, stop = int(self.places[0]), int(self.places[-1]) + 1
        states = torch.from_numpy(self.text.hidden[max(0, first - 1) : stop - 1].view(np.int16))
        known = states.view(torch.bfloat16).float()
        return F.pad(known, (0, 0, len(self.places) - len(known), 0))


def _rows(
    windows: Sequence[Sequence[_Part]], values: Callable[[_Part, int], np.ndarray]
) -> torch.Tensor:
    """`[B, L]` from `values` of each part of each window and of its number in the window."""
    rows = [np.concatenate([values(part, n) for n, part in enumerate(w)]) for w in windows]
    return torch.from_numpy(np.stack(rows))
