"""How much memory models take, and what to say when a GPU is full."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch


def out_of_memory(name: str, error: torch.OutOfMemoryError) -> RuntimeError:
    """An error that says what to lower, for `raise ... from error`."""
    reason = str(error).split(". ")[0]
    return RuntimeError(
        f"{name} does not fit in the GPU's memory ({reason}): lower the batch size, "
        "context_length, graph_memory or the prefill chunk, or load it with quantize=int8"
    )


def weight_bytes(weights: Any) -> int:
    """Bytes of all distinct tensors in a dataclass, list or module of them; 0 of anything else."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in _tensors(weights)}
    return sum(storage.nbytes() for storage in storages.values())


def _tensors(weights: Any) -> Iterator[torch.Tensor]:
    if isinstance(weights, torch.Tensor):
        yield weights
    elif isinstance(weights, torch.nn.Module):
        yield from weights.parameters()
    elif isinstance(weights, list):
        for item in weights:
            yield from _tensors(item)
    elif is_dataclass(weights):
        for field in fields(weights):
            yield from _tensors(getattr(weights, field.name))
