"""How fast this machine reads memory, and how many bytes a decoding step must read."""

import mmap
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from transformers import PretrainedConfig, PreTrainedModel

from adaspec_rl.engine.language_model import LanguageModel
from adaspec_rl.engine.memory import slots

CPU_BYTES = 1 << 29  # far more than a last-level cache has
CUDA_BYTES = 4 << 30
PASSES = 20


def memory_bandwidth(device: torch.device) -> float:
    """Bytes per second: read by all of torch's threads, or read and written by a GPU's copies."""
    return _copied(device) if device.type == "cuda" else _read()


def _read(size: int = CPU_BYTES) -> float:
    """The fastest of several passes over memory, in huge pages if the system has them."""
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_HUGEPAGE)
        values = torch.frombuffer(memory, dtype=torch.float32).fill_(1.0)
    else:
        values = torch.ones(size // 4)
    ways: list[Callable[[], object]] = [values.norm, values.sum, lambda: values.dot(values)]
    best = float("inf")
    for number in range(PASSES):
        began = time.perf_counter()
        ways[number % len(ways)]()
        best = min(best, time.perf_counter() - began)
    return size / best


def _copied(device: torch.device, size: int = CUDA_BYTES) -> float:
    """The fastest of several copies; reads and writes both count."""
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(PASSES):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        target.copy_(source)
        end.record()
        torch.cuda.synchronize(device)
        best = max(best, 2 * size / (start.elapsed_time(end) / 1000))
    return best


def step_weights(model: LanguageModel | PreTrainedModel, layers: int | None = None) -> int:
    """Bytes of weights, as stored, that a step reads: all except an embedding that is not the head.

    With `layers`, a step of our engine that runs only the first `layers` layers.
    """
    if isinstance(model, PreTrainedModel):
        embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        spared = 0 if embedding is head else embedding.nbytes
        return sum(parameter.nbytes for parameter in model.parameters()) - spared
    if isinstance(model.weights, PreTrainedModel):
        return step_weights(model.weights)
    weights = model.weights
    read = replace(weights, embedding=weights.head, layers=weights.layers[:layers])
    tensors = [getattr(owner, name) for owner, name in slots(read)]
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())


def cached_token(config: PretrainedConfig, element_size: int) -> int:
    """Bytes that one token of context takes in the cache of a model of this configuration."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or (
        config.hidden_size // config.num_attention_heads
    )
    return 2 * config.num_hidden_layers * heads * head_dim * element_size
