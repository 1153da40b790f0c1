"""How much memory models take, which memory they share, and the error when there is none left."""

import os
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch

from adaspec_rl.engine.cpu.packing import PackedMatrix, PackedWeights
from adaspec_rl.engine.weights import Weights

MIB = 1 << 20
GIB = 1 << 30
REMEDY = (
    "lower cost.batch_sizes, env.max_length or data.max_prompt_tokens, leave out one of "
    "model.drafters, or set model.quantize=int8 or, for draft models on a GPU, model.memory=offload"
)
_PROCESS = Path("/proc/self")
_HIGH_WATER_MARK = re.compile(r"VmHWM:\s+(\d+) kB")


class OutOfMemory(MemoryError):
    """A device has no room for what was asked of it; the message says which settings to lower."""


def out_of_memory(name: str, error: RuntimeError) -> OutOfMemory:
    """An error that says which settings to lower, for `raise ... from error`."""
    reason = " ".join(str(error).split("]")[-1].split(". ")[0].split())
    return OutOfMemory(f"{name} does not fit in memory ({reason}): {REMEDY}")


def exhausted(error: BaseException) -> bool:
    """Whether torch ran out of memory, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def slots(weights: Any) -> Iterator[tuple[Any, str]]:
    """Where a dataclass, list or module keeps its tensors: the owner and attribute of each."""
    if isinstance(weights, torch.nn.Module):
        yield from ((parameter, "data") for parameter in weights.parameters())
    elif isinstance(weights, list):
        for item in weights:
            yield from slots(item)
    elif is_dataclass(weights):
        for field in fields(weights):
            value = getattr(weights, field.name)
            if isinstance(value, torch.Tensor):
                yield weights, field.name
            else:
                yield from slots(value)


def place(tensor: torch.Tensor) -> int:
    """The address of a tensor's storage: the same for all its views."""
    return tensor.untyped_storage().data_ptr()


def weight_bytes(weights: Any, besides: Any = None) -> int:
    """Bytes of all distinct tensors of `weights`, except those shared with `besides`."""
    known = {place(getattr(owner, name)) for owner, name in slots(besides)}
    storages = {place(t): t.untyped_storage() for t in (getattr(*slot) for slot in slots(weights))}
    return sum(storage.nbytes() for where, storage in storages.items() if where not in known)


def share_embeddings(weights: Any, target: Any) -> int:
    """Make `weights` use the target's embedding and output matrix where its own are equal.

    They must be equal in shape, type, device and every value, so that nothing else changes.

    Returns: the bytes that this freed.
    """
    if type(weights) is not type(target) or not isinstance(weights, Weights | PackedWeights):
        return 0
    before = weight_bytes(weights)
    tied = weights.head is weights.embedding
    if _equal(weights.embedding, target.embedding):
        weights.embedding = target.embedding
        if tied:
            weights.head = weights.embedding
    if not tied and _equal(weights.head, target.head):
        weights.head = target.head
    return before - weight_bytes(weights, target)


def _equal(a: torch.Tensor | PackedMatrix, b: torch.Tensor | PackedMatrix) -> bool:
    if isinstance(a, PackedMatrix) or isinstance(b, PackedMatrix):
        return isinstance(a, PackedMatrix) and isinstance(b, PackedMatrix) and a.same(b)
    plain = type(a) is torch.Tensor and type(b) is torch.Tensor
    alike = plain and (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)
    return alike and torch.equal(a, b)


class PeakMemory:
    """The most memory in use since a given moment.

    On CUDA this is what torch's allocator handed out. On the CPU under Linux it is the resident
    memory of the whole process, including libraries. Systems and sandboxes that do not report it
    have none.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.known = device.type == "cuda" or _process_tells()

    def begin(self) -> None:
        """Start measuring."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif self.known:
            (_PROCESS / "clear_refs").write_text("5")

    def bytes(self) -> int | None:
        """The peak since `begin`; None if it is not known."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if not self.known:
            return None
        found = _HIGH_WATER_MARK.search((_PROCESS / "status").read_text())
        assert found is not None
        return 1024 * int(found[1])


def _process_tells() -> bool:
    """Whether this process's peak memory can be read and reset: see proc(5)."""
    if not os.access(_PROCESS / "clear_refs", os.W_OK):
        return False
    return _HIGH_WATER_MARK.search((_PROCESS / "status").read_text()) is not None
