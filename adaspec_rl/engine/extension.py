"""What single rows of a batch read, where each reads something else."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Extension:
    """Tokens for one row of a model's cache."""

    row: int
    tokens: torch.Tensor  # [W] int64
    keep: int  # logits of the last so many tokens are wanted
    states: int = 0  # and hidden states of the last so many, `keep` or more
    features: torch.Tensor | None = None  # [W, hidden], for a model that reads them

    def __post_init__(self) -> None:
        assert 0 <= self.keep <= self.width and self.width > 0
        assert self.states <= self.width

    @property
    def width(self) -> int:
        """The tokens that it reads."""
        return len(self.tokens)

    def cut(self, width: int) -> "tuple[Extension, Extension | None]":
        """Its first `width` tokens, and the rest."""
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
    """What a model says of one `Extension`."""

    logits: torch.Tensor  # [keep, V] float32
    hidden: torch.Tensor  # [states, hidden], normalised
    finite: bool  # whether all logits are


def passes(
    extensions: Sequence[Extension], most: int, *, padded: bool = False
) -> Iterator[list[Extension]]:
    """Cut what rows read into forward passes of at most `most` tokens.

    Args:
        padded: every row of a pass is as wide as the widest, and `most` is the most that one reads;
            otherwise the most that all read together.
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
    """What several passes say of the tokens of one row."""
    if len(parts) == 1:
        return parts[0]
    hidden = [part.hidden for part in parts]
    return Extended(
        torch.cat([part.logits for part in parts]),
        torch.cat(hidden),
        all(part.finite for part in parts),
    )
