"""Weights in 8 bits outside the compiled kernels, which pack their own in 8 or 4 bits."""

import torch
from torch import nn

from adaspec_rl.engine.weights import Weights

QUANTIZATIONS = ("int8", "int4")


def quantize_module(model: nn.Module, kind: str) -> None:
    """Replace the weights of every linear layer of `model` by int8, through torchao.

    Raises:
        ValueError: `kind` is not int8, or torchao is not installed.
    """
    if kind != "int8":
        raise ValueError(
            f"quantize={kind!r} needs the lean engine's compiled kernels, on a CPU: expected int8"
        )
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError:
        raise ValueError("quantize='int8' needs torchao: pip install torchao") from None
    quantize_(model, Int8WeightOnlyConfig())


def quantize_weights(weights: Weights, kind: str) -> None:
    """Replace every matrix of `weights` by int8, one at a time; a tied embedding is unchanged."""
    for layer in weights.layers:
        for field in ("qkv", "output", "gate_up", "down"):
            setattr(layer, field, quantize_matrix(getattr(layer, field), kind))
    if weights.head is not weights.embedding:
        weights.head = quantize_matrix(weights.head, kind)


def quantize_matrix(matrix: torch.Tensor, kind: str) -> torch.Tensor:
    """Quantise one float matrix `[outputs, inputs]`."""
    linear = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(matrix, requires_grad=False)
    quantize_module(linear, kind)
    return linear.weight.data
