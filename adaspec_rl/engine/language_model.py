"""What decoding needs from a model: a cached forward pass that can be rolled back."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch

from adaspec_rl.engine.extension import Extended, Extension


class LanguageModel(Protocol):
    """One model with its KV cache for a batch of `B` sequences.

    Row `b` of the cache holds `lengths[b]` tokens. Positions are implied: the next token of row `b`
    stands at position `lengths[b]`.
    """

    name: str
    vocab_size: int  # tokens that it reads
    context_length: int  # the most tokens that one row can hold
    device: torch.device
    weights: Any  # a dataclass or module of tensors
    execution: str  # kernels, number format and device type, on which rounding and so texts depend
    resets: int  # how often the cache was emptied; it grows when others use the model

    @property
    def output_tokens(self) -> torch.Tensor | None:
        """The tokens `[C]` int64, ascending, that its logits stand for; None: the vocabulary."""
        ...

    @property
    def lengths(self) -> torch.Tensor:
        """Tokens in each row's cache, `[B]` int64 on the host."""
        ...

    def prefill(self, tokens: torch.Tensor) -> torch.Tensor:
        """Empty the cache, read `tokens` `[B, W]`, and return the last logits `[B, V]` float32."""
        ...

    def extend(self, tokens: torch.Tensor, keep: int | None = None) -> torch.Tensor:
        """Append `tokens` `[B, W]` to every row; one forward pass.

        Returns: float32 logits `[B, K, V]` of the last `K = keep` positions (all `W` by default).

        Raises:
            ValueError: the rows would outgrow `context_length`.
            FloatingPointError: logits are NaN or infinite (on a GPU, `check` raises it).
        """
        ...

    def extend_tree(
        self, tokens: torch.Tensor, parents: Sequence[int], *, keep: int | None = None
    ) -> torch.Tensor:
        """Append the last `W` nodes of a token tree, `tokens` `[1, W]`, to the only row.

        Each node sees the text before the tree and its own ancestors, and its position follows from
        its depth. Its logits are those after a text that ends with its path.

        Args:
            parents: the parents of all nodes, including those appended before: an earlier node, or
                -1 for the last token before the tree.
            keep: as in `extend`.

        Returns: float32 logits `[1, K, V]`.

        Raises:
            ValueError: the model cannot read trees, or the row would outgrow `context_length`.
            FloatingPointError: as in `extend`.
        """
        ...

    def keep_path(self, length: int, nodes: Sequence[int]) -> None:
        """Forget all but the first `length` tokens and, of the tree after them, the path `nodes`.

        The path starts at the tree's root; nodes are numbered in the order in which they were
        appended. They become the tokens after `length`, without another forward pass.
        """
        ...

    def prepare(
        self,
        length: int,
        *,
        layers: int | None = None,
        progress: Callable[[float], None] = lambda share: None,
    ) -> None:
        """Do the slow one-off work for rows of `length` tokens; may `reset`.

        Args:
            layers: prepare forwards through this many layers; None: all.
            progress: is told the share that is done, if there was anything to do.
        """
        ...

    def rollback(self, lengths: torch.Tensor | int) -> None:
        """Forget all but the first `lengths` tokens of each row (`[B]`, or one number for all)."""
        ...

    def reset(self, batch: int = 1, length: int = 0) -> None:
        """Empty the cache for `batch` rows, with memory for `length` tokens in each.

        Rows may grow longer, but then the memory grows too, and for a moment exists twice.
        """
        ...

    def release(self) -> None:
        """Free everything but the weights; `reset` makes it anew."""
        ...

    def weights_moved(self) -> None:
        """Must be called after tensors of `weights` have been replaced."""
        ...

    @property
    def pending(self) -> torch.Tensor | None:
        """The value that `check` reads, a scalar on the GPU; None on the CPU."""
        ...

    def check(self, found: int | None = None) -> None:
        """Raise errors that forwards on a GPU deferred.

        Args:
            found: the value of `pending`, if the host has it already; None: read it, which waits
                for the device.

        Raises:
            FloatingPointError: logits were NaN or infinite; names the model and the position.
        """
        ...


@runtime_checkable
class RowModel(LanguageModel, Protocol):
    """A model whose rows have their own lengths, and read their own tokens."""

    def extend_rows(self, extensions: Sequence[Extension]) -> list[Extended]:
        """Append to some rows the tokens of their `Extension`."""
        ...

    def free_row(self, row: int, *, erase: bool = False) -> None:
        """Forget a row's tokens; `erase` also zeroes their memory, in case it holds a NaN."""
        ...

    def rollback_row(self, row: int, length: int) -> None:
        """Forget all but the first `length` tokens of one row."""
        ...
