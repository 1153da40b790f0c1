"""The cost of equal bits at every width: our largest product beside torch's and oneDNN's.

    python benchmarks/products.py [--model smollm2] [--repeats 15] [--json PATH]

A model's output matrix times 1 to 16 rows, with the weights outside the caches. Ours is a forward
pass through no layers, so it also reads an embedding and normalises. `linear` is `F.linear`,
`onednn` the same product with weights reordered once for oneDNN, as torch's own compiler does, and
`int8pack` torch's kernel for 8-bit matrices. Only ours gives equal bits at every width. All take
turns; times are medians. Figures: `PRECISION_WAY_WIDTH_us`, and `PRECISION_WIDTH_cost`, our time
divided by the fastest other's, minus 1.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from report import finish
from rich.progress import track

from adaspec_rl.engine.cpu.packing import PackedWeights, unpack
from adaspec_rl.engine.lean_model import LeanModel
from adaspec_rl.engine.load_options import LoadOptions
from adaspec_rl.engine.loading import load_model
from adaspec_rl.pairs.sources import checkpoint_of

WIDTHS = (1, 2, 4, 8, 16)
FLUSH = 1 << 29  # bytes that are read before each product
PRECISIONS: dict[str, tuple[torch.dtype, str | None]] = {
    "float32": (torch.float32, None),
    "bfloat16": (torch.bfloat16, None),
    "int8": (torch.bfloat16, "int8"),
}


def ways_of(model: LeanModel, precision: str) -> dict[str, Callable[[int], Any]]:
    """Each way as a function of the number of rows."""
    assert isinstance(model.weights, PackedWeights)
    weights = unpack(model.weights.head)
    x = torch.randn(max(WIDTHS), weights.shape[1])

    def ours(width: int) -> None:
        model.forward(torch.arange(width)[None], layers=0)
        model.rollback(0)

    if precision == "int8":
        scales = weights.abs().amax(1) / 127
        numbers = (weights / scales[:, None]).round().to(torch.int8)
        x, scales = x.bfloat16(), scales.bfloat16()
        return {
            "ours": ours,
            "int8pack": lambda n: torch._weight_int8pack_mm(x[:n], numbers, scales),
        }
    x, weights = x.to(model.dtype), weights.to(model.dtype)
    reordered = {n: torch.ops.mkldnn._reorder_linear_weight(weights, n) for n in WIDTHS}
    product = torch.ops.mkldnn._linear_pointwise
    return {
        "ours": ours,
        "linear": lambda n: F.linear(x[:n], weights),
        "onednn": lambda n: product(x[:n], reordered[n], None, "none", [], ""),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    source = checkpoint_of(options.model).source
    flush = torch.ones(FLUSH // 4)
    figures = {}
    for precision, (dtype, quantize) in PRECISIONS.items():
        model = load_model(source, LoadOptions(dtype=dtype, quantize=quantize, kernels="compiled"))
        assert isinstance(model, LeanModel)
        ways = ways_of(model, precision)
        times: dict[tuple[str, int], list[float]] = {(w, n): [] for n in WIDTHS for w in ways}
        for _ in track(range(options.repeats), precision):
            for (way, width), found in times.items():
                flush.sum()
                began = time.perf_counter()
                ways[way](width)
                found.append(1e6 * (time.perf_counter() - began))
        medians = {key: statistics.median(found[1:]) for key, found in times.items()}
        for (way, width), median in medians.items():
            figures[f"{precision}_{way}_{width}_us"] = median
        for width in WIDTHS:
            others = min(t for (way, n), t in medians.items() if n == width and way != "ours")
            figures[f"{precision}_{width}_cost"] = medians["ours", width] / others - 1
    finish(figures, options.json)


if __name__ == "__main__":
    main()
