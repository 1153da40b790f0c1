"""Turns checkpoint tensors into the weights that a lean model runs with on its device."""

from collections.abc import Iterable
from typing import Any

import torch

from adaspec_rl.engine.architecture import Architecture
from adaspec_rl.engine.cpu.build import compiled
from adaspec_rl.engine.cpu.packing import PackedWeights, Packer, rows_of
from adaspec_rl.engine.quantization import quantize_matrix, quantize_weights
from adaspec_rl.engine.weights import Stored, Weights, load_weights

PACKED_DTYPES = (torch.float32, torch.bfloat16)


def read_weights(
    architecture: Architecture,
    tensors: Iterable[tuple[str, Stored]],
    *,
    dtype: torch.dtype,
    device: torch.device,
    kernels: str = "auto",
    quantize: str | None = None,
) -> Weights | PackedWeights:
    """Weights for the compiled kernels, packed as they are read, or for torch's kernels.

    Args:
        kernels: on CPUs `auto`, `compiled` or `torch`, see `cpu.build.compiled`.
        quantize: `int8`; with the compiled kernels also `int4`.

    Raises:
        ValueError: the tensors do not fit, or the kernels are not available.
    """
    if device.type == "cpu" and dtype in PACKED_DTYPES and compiled(kernels):
        exact = dtype if quantize is None else torch.float32  # what is rounded once more
        packer = Packer(dtype, quantize)
        found: Any = load_weights(architecture, tensors, dtype=exact, device=device, packing=packer)
        return PackedWeights(found.embedding, found.layers, found.norm.float(), found.head, dtype)
    weights = load_weights(architecture, tensors, dtype=dtype, device=device)
    if quantize is not None:
        quantize_weights(weights, quantize)
    return weights


def trimmed_head(
    weights: Weights | PackedWeights, ids: torch.Tensor, quantize: str | None = None
) -> Any:
    """The rows `ids` [R] of the output matrix, in its own form.

    Args:
        quantize: of rows on torch's kernels whose matrix is quantised.
    """
    if isinstance(weights, PackedWeights):
        return rows_of(weights.head, ids)
    plain = type(weights.head) is torch.Tensor
    rows = (weights.head if plain else weights.head.dequantize())[ids.to(weights.norm.device)]
    return rows if plain or quantize is None else quantize_matrix(rows, quantize)
