"""What to say when a GPU is full."""

import torch


def out_of_memory(name: str, error: torch.OutOfMemoryError) -> RuntimeError:
    """An error that says what to lower, for `raise ... from error`."""
    reason = str(error).split(". ")[0]
    return RuntimeError(
        f"{name} does not fit in the GPU's memory ({reason}): lower the batch size, "
        "context_length, graph_memory or the prefill chunk, or load it with quantize=int8"
    )
