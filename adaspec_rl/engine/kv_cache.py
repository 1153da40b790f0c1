"""Keys and values of every token read so far, in memory that moves only to grow."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch

from adaspec_rl.engine.architecture import Architecture
from adaspec_rl.engine.cpu import huge_pages

_FIRST_CAPACITY = 1024  # tokens, of all rows together
_LEAST_CAPACITY = 64  # of one row
_BLOCK = 16  # slots: capacities are multiples, as the compiled decoder keeps keys in such blocks


class KVCache:
    """Room for `capacity` tokens in each of `batch` rows. Lowering a length forgets tokens."""

    def __init__(
        self,
        architecture: Architecture,
        *,
        dtype: torch.dtype,
        device: torch.device,
        context_length: int,
        blocked: bool = False,
    ) -> None:
        """`blocked`: keys are stored as the compiled decoder needs them, 16 slots together."""
        self.context_length = context_length
        self._blocked = blocked
        self.lengths: list[int] = []
        self._architecture = architecture
        self._dtype, self._device = dtype, device
        self.allocate(1)

    @property
    def batch(self) -> int:
        return len(self.lengths)

    @property
    def longest(self) -> int:
        return max(self.lengths)

    @property
    def uniform(self) -> bool:
        """Whether all rows have the same length."""
        return len(self.lengths) == 1 or len(set(self.lengths)) == 1

    def fits(self, batch: int, length: int) -> bool:
        """Whether the memory fits `batch` rows of `length` tokens."""
        return batch == self.batch and length <= self.capacity

    def allocate(self, batch: int, length: int = 0) -> None:
        """Empty the cache, for `batch` rows with room for at least `length` tokens."""
        if batch < 1:
            raise ValueError(f"expected at least 1 row, got batch={batch}")
        if not self.fits(batch, length):
            wanted = max(_FIRST_CAPACITY // batch, _LEAST_CAPACITY, length)
            self.capacity = self._rounded(wanted)
            self.data = self._new(batch)
        self.lengths = [0] * batch

    @torch.inference_mode()  # where the memory may have been made
    def wipe(self) -> None:
        """Empty the cache and zero its memory: a NaN spoils a sum even with weight 0."""
        self.data.zero_()
        self.lengths = [0] * self.batch

    def release(self) -> None:
        """Free the memory; `allocate` makes it anew."""
        self.data, self.capacity, self.lengths = self.data.new_empty(0), 0, []

    def reserve(self, length: int) -> bool:
        """Make room for rows of `length` tokens. Returns whether the memory had to move."""
        if length <= self.capacity:
            return False
        old, self.capacity = self.capacity, self._rounded(max(length, 2 * self.capacity))
        data = self._new(self.batch)
        data[:, :, :, :old] = self.data
        self.data = data
        return True

    def rollback(self, lengths: list[int]) -> None:
        """Keep the first `lengths[b]` tokens of row `b`.

        Raises:
            ValueError: a row holds fewer tokens, or `lengths` has the wrong number of rows.
        """
        if len(lengths) != self.batch or any(
            not 0 <= wanted <= held for wanted, held in zip(lengths, self.lengths)
        ):
            raise ValueError(f"cannot roll back to {lengths} tokens: the rows hold {self.lengths}")
        self.lengths = lengths

    @torch.inference_mode()  # where the memory may have been made
    def keep(self, row: int, length: int, slots: Sequence[int]) -> None:
        """Keep the first `length` tokens of a row and those in `slots`, which move up behind them.

        Raises:
            ValueError: `slots` do not ascend from `length` on, or the row does not hold them.
        """
        bounds = [length - 1, *slots, self.lengths[row]]
        if length < 0 or any(a >= b for a, b in pairwise(bounds)):
            raise ValueError(
                f"cannot keep {length} tokens and slots {list(slots)}: row {row} holds "
                f"{self.lengths[row]}"
            )
        moved = [(slot, to) for to, slot in enumerate(slots, length) if slot != to]
        if moved:
            self._move(row, *(torch.tensor(part, device=self._device) for part in zip(*moved)))
        kept = length + len(slots)
        self.lengths = [kept if number == row else held for number, held in enumerate(self.lengths)]

    def _move(self, row: int, source: torch.Tensor, to: torch.Tensor) -> None:
        kv_heads, data = self._architecture.kv_heads, self.data[:, row]  # [layers, heads, L, D]
        if not self._blocked:
            data[:, :, to] = data[:, :, source]
            return
        values, keys = data[:, kv_heads:], self._key_blocks(data[:, :kv_heads])
        values[:, :, to] = values[:, :, source]
        (a, b), (c, d) = ((slots // _BLOCK, slots % _BLOCK) for slots in (to, source))
        keys[:, :, a, :, b] = keys[:, :, c, :, d]

    def _key_blocks(self, keys: torch.Tensor) -> torch.Tensor:
        """Keys `[layers, heads, L, D]` as stored: `[layers, heads, L / 16, D / 2, 16, 2]`.

        In float32 they are not paired: `[layers, heads, L / 16, D, 16]`.
        """
        layers, heads, _, dim = keys.shape
        pairs = self._dtype == torch.bfloat16
        shape = (dim // 2, _BLOCK, 2) if pairs else (dim, _BLOCK)
        return keys.view(layers, heads, -1, *shape)

    def append(self, widths: Mapping[int, int]) -> None:
        """Add to the lengths of rows, given by row number."""
        self.lengths = [length + widths.get(row, 0) for row, length in enumerate(self.lengths)]

    @torch.inference_mode()  # where the memory may have been made
    def free(self, row: int, *, erase: bool = False) -> None:
        """Empty one row; `erase` zeroes its memory, in case it holds a NaN, which would spread."""
        if erase:
            self.data[:, row].zero_()
        self.lengths = [0 if number == row else held for number, held in enumerate(self.lengths)]

    def _rounded(self, length: int) -> int:
        return -(-min(length, self.context_length) // _BLOCK) * _BLOCK

    def _new(self, batch: int) -> torch.Tensor:
        a = self._architecture
        # Zeros, not empty: masked entries are multiplied by 0, which does not remove a NaN.
        # Keys first, then values, along the third dimension.
        shape = (a.layers, batch, 2 * a.kv_heads, self.capacity, a.head_dim)
        if self._device.type == "cpu":
            return huge_pages.zeros(shape, self._dtype)
        return torch.zeros(shape, dtype=self._dtype, device=self._device)
