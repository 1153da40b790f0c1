"""What decoding asks of a model: a cached forward pass that can be taken back."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch

from adaspec_rl.engine.extension import Extended, Extension


class LanguageModel(Protocol):
    """One model with its KV cache for a batch of `B` sequences.

    Row `b` of the cache holds `lengths[b]` tokens. Positions are implied: the next token of row
    `b` stands at position `lengths[b]`.
    """

    name: str
    vocab_size: int  # tokens that it reads
    context_length: int  # the most tokens that one row can hold
    device: torch.device
    weights: Any  # a dataclass or module of tensors
    execution: str  # kernels, numbers, kind of device: rounding, and so a text, depends on these
    resets: int  # how often the cache was emptied: where others use the model too, it grows

    @property
    def output_tokens(self) -> torch.Tensor | None:
        """The tokens that its logits are of, `[C]` int64, ascending; None: the vocabulary."""
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
            FloatingPointError: logits are NaN or infinite (on a GPU it is `check` that says so).
        """
        ...

    def extend_tree(
        self, tokens: torch.Tensor, parents: Sequence[int], *, keep: int | None = None
    ) -> torch.Tensor:
        """Append the last `W` nodes of a token tree, `tokens` `[1, W]`, to the only row.

        Each sees the text before the tree and its own ancestors, and stands in the text where its
        depth says. Its logits are those of a text that ends with this path.

        Args:
            parents: of all nodes, the earlier ones, which were appended last, included: each an
                earlier node, or -1, the last token before the tree.
            keep: as in `extend`.

        Returns: float32 logits `[1, K, V]`.

        Raises:
            ValueError: the model reads no trees, or the row would outgrow `context_length`.
            FloatingPointError: as in `extend`.
        """
        ...

    def keep_path(self, length: int, nodes: Sequence[int]) -> None:
        """Forget all but the first `length` tokens and, of the tree after them, `nodes`.

        These are a path from the tree's root, by the order in which they were appended. They become
        the tokens after `length`, without another forward pass.
        """
        ...

    def prepare(
        self,
        length: int,
        *,
        layers: int | None = None,
        progress: Callable[[float], None] = lambda share: None,
    ) -> None:
        """Do all that rows of `length` tokens need done once, and that takes time; may `reset`.

        Args:
            layers: prepare forwards through so many layers; None: all.
            progress: told the share that is done, where there was something to do.
        """
        ...

    def rollback(self, lengths: torch.Tensor | int) -> None:
        """Forget all but the first `lengths` tokens of each row (`[B]`, or one number for all)."""
        ...

    def reset(self, batch: int = 1, length: int = 0) -> None:
        """Empty the cache for `batch` rows, with memory for `length` tokens in each.

        They may become longer, but then the memory grows, and for a moment exists twice.
        """
        ...

    def release(self) -> None:
        """Free all that is not weights; `reset` makes it anew."""
        ...

    def weights_moved(self) -> None:
        """Call it after tensors of `weights` have been replaced."""
        ...

    @property
    def pending(self) -> torch.Tensor | None:
        """What `check` looks at, a scalar on the GPU; None on the CPU."""
        ...

    def check(self, found: int | None = None) -> None:
        """Raise what forwards on a GPU put off.

        Args:
            found: the value of `pending`, where it has come to the host with something else; None:
                it is read, which waits for the device.

        Raises:
            FloatingPointError: logits were NaN or infinite; names the model and the position.
        """
        ...


@runtime_checkable
class RowModel(LanguageModel, Protocol):
    """A model whose rows have lengths of their own, and read what they like."""

    def extend_rows(self, extensions: Sequence[Extension]) -> list[Extended]:
        """Append other tokens to some rows, those of each `Extension` to its row."""
        ...

    def free_row(self, row: int, *, erase: bool = False) -> None:
        """Forget a row's tokens; `erase` also what they left, where a NaN may be among it."""
        ...

    def rollback_row(self, row: int, length: int) -> None:
        """Forget all but the first `length` tokens of one row."""
        ...
