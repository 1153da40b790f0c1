"""What single rows of a batch read when each row reads its own tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True, slots=True)
class Extension:
    """Tokens to read in one row of a model's cache."""

    row: int
    tokens: torch.Tensor  # [W] int64
    keep: int  # how many of the last tokens' logits are wanted
    states: int = 0  # how many of the last tokens' hidden states; `keep` if that is more
    features: torch.Tensor | None = None  # [W, hidden], for a model that reads them
    width: int = field(init=False)  # the number of tokens to read

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", self.tokens.shape[0])  # asked for often
        assert 0 <= self.keep <= self.width and self.width > 0
        assert self.states <= self.width

    def cut(self, width: int) -> "tuple[Extension, Extension | None]":
        """The first `width` tokens, and the rest."""
        rest = self.width - width
        if not rest:
            return self, None
        known = self.features
        first = Extension(
            self.row,
            self.tokens[:width],
            max(0, self.keep - rest),
            max(0, self.states - rest),
            None if known is None else known[:width],
        )
        later = Extension(
            self.row,
            self.tokens[width:],
            min(self.keep, rest),
            min(self.states, rest),
            None if known is None else known[width:],
        )
        return first, later


@dataclass(frozen=True, slots=True)
class Extended:
    """A model's output for one `Extension`."""

    logits: torch.Tensor  # [keep, V] float32
    hidden: torch.Tensor  # [states, hidden], normalised
    finite: bool  # whether all logits are


def passes(
    extensions: Sequence[Extension], most: int, *, padded: bool = False
) -> Iterator[list[Extension]]:
    """Split what rows read into forward passes of at most `most` tokens.

    Args:
        padded: rows of a pass are padded to the widest, and `most` limits each row; otherwise
            `most` limits all rows together.
    """
    rest = list(extensions)
    while rest:
        together, left, room = [], [], most
        for part in rest:
            width = min(part.width, room)
            if width == 0:
                left.append(part)
                continue
            first, later = part.cut(width)
            together.append(first)
            if later is not None:
                left.append(later)
            room -= 0 if padded else width
        yield together
        rest = left


def joined(parts: Sequence[Extended]) -> Extended:
    """The outputs of several passes over one row's tokens, joined."""
    if len(parts) == 1:
        return parts[0]
    hidden = [part.hidden for part in parts]
    return Extended(
        torch.cat([part.logits for part in parts]),
        torch.cat(hidden),
        all(part.finite for part in parts),
    )
