"""Memory in huge pages, where a processor translates addresses faster.

On a two-core server one pass over 512 MiB took 17 ms in ordinary pages, 9.5 ms in huge ones.
"""

import ctypes
import math
import mmap
from collections.abc import Sequence
from contextlib import suppress

import torch

PAGE = 1 << 21  # bytes
BLOCK = 1 << 26  # bytes that are allocated at a time


def zeros(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Like `torch.zeros`; in huge pages if the tensor fills one and the system has them."""
    count = math.prod(shape)
    if count * dtype.itemsize < PAGE:
        return torch.zeros(*shape, dtype=dtype)
    memory, start = _pages(count * dtype.itemsize)
    return torch.frombuffer(memory, dtype=dtype, count=count, offset=start).view(*shape)


class HugePages:
    """Allocates tensors next to each other in huge pages."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)
        self._next = self._end = 0

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A contiguous, uninitialised tensor."""
        size = math.prod(shape) * dtype.itemsize
        if not size:
            return torch.empty(*shape, dtype=dtype)
        if self._next + size > self._end:
            self._memory, self._next = _pages(max(BLOCK, size))
            self._end = len(self._memory)
        flat = torch.frombuffer(
            self._memory, dtype=dtype, count=math.prod(shape), offset=self._next
        )
        self._next += -(-size // 64) * 64  # whole cache lines
        return flat.view(*shape)


def give_back_memory() -> None:
    """Return freed memory to the system, as glibc otherwise keeps it for later."""
    with suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _pages(size: int) -> tuple[mmap.mmap, int]:
    """At least `size` zero bytes, and the offset at which the first huge page begins."""
    size = -(-size // PAGE) * PAGE + PAGE
    if hasattr(mmap, "MADV_HUGEPAGE"):  # Linux; shared memory would not get them
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_HUGEPAGE)
    else:
        memory = mmap.mmap(-1, size)
    address = torch.frombuffer(memory, dtype=torch.uint8, count=1).data_ptr()
    return memory, -address % PAGE
