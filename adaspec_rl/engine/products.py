"""How a CPU multiplies a few rows by a matrix: whichever way is faster there, found by measuring.

A narrow product reads its matrix once and should take as long as that. Which call comes close
depends on the processor and on the number of rows: on some, `F.linear` takes three times as long
for four rows as `W @ x.T` does; on others, it is the faster one.
"""

import json
import logging
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from adaspec_rl import strict_json
from adaspec_rl.files import write_atomically

WIDTHS = (1, 2, 4, 8, 16)  # rows that are measured; those between go by the next wider one
MARGIN = 0.9  # of F.linear's time: what another way may take to be chosen
SMALLEST = 1 << 16  # values: what has fewer stays in the processor's cache and takes no time
PASSES, ENOUGH = 4, 0.02  # over all matrices of a shape: at least so many, and so many seconds

Shape = tuple[int, int]  # outputs, inputs
Linear = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]

logger = logging.getLogger(__name__)


def transposed(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """`F.linear(x, weight, bias)` of `x` `[..., inputs]`, computed as `weight @ x.T`."""
    flat = x.reshape(-1, x.shape[-1])
    out = torch.mm(weight, flat.t()).t().contiguous().view(*x.shape[:-1], -1)
    return out if bias is None else out.add_(bias)


@dataclass(frozen=True, slots=True)
class Products:
    """The faster way for each shape of matrix and number of rows.

    Attributes:
        faster: by shape, the widths of `WIDTHS` at which `transposed` beats `F.linear`.
    """

    faster: Mapping[Shape, Sequence[int]]

    def linear(self, weight: torch.Tensor, rows: int) -> Linear:
        """The way for `rows` rows."""
        shape = (weight.shape[0], weight.shape[1])
        width = next((width for width in WIDTHS if rows <= width), None)
        return transposed if width in self.faster.get(shape, ()) else F.linear


LINEAR = Products({})  # F.linear throughout


def measured_products(matrices: Sequence[torch.Tensor]) -> Products:
    """Measure both ways with a model's own `matrices` `[outputs, inputs]`, all on the CPU.

    The quickest pass counts, as whatever else the machine does only makes passes slower.

    What was found is kept in the user's cache folder, by processor, threads, torch, dtype and
    shape: the same machine always decides alike, so that its rounding does not change.
    """
    path = cache_folder() / "products.json"
    known = _read(path)
    by_shape: dict[Shape, list[torch.Tensor]] = {}
    for matrix in matrices:
        if matrix.numel() >= SMALLEST:
            by_shape.setdefault((matrix.shape[0], matrix.shape[1]), []).append(matrix)
    found = {}
    for shape, members in by_shape.items():
        key = f"{_machine()}, {members[0].dtype}, {shape[0]} x {shape[1]}"
        if key not in known:
            known[key] = [width for width in WIDTHS if _transposed_is_faster(members, width)]
        found[shape] = known[key]
    if known != _read(path):
        try:
            write_atomically(path, json.dumps(known, indent=2, sort_keys=True) + "\n")
        except ValueError as error:  # a read-only home
            logger.info("the choice of matrix products is not kept: %s", error)
    return Products(found)


def cache_folder() -> Path:
    """Where this package keeps what it can make again."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "adaspec_rl"


@torch.inference_mode()
def _transposed_is_faster(matrices: Sequence[torch.Tensor], width: int) -> bool:
    x = torch.ones(width, matrices[0].shape[1], dtype=matrices[0].dtype)
    seconds: dict[Linear, list[float]] = {F.linear: [], transposed: []}
    until = time.perf_counter() + ENOUGH
    while len(seconds[transposed]) < PASSES or time.perf_counter() < until:
        for way, taken in seconds.items():
            began = time.perf_counter()
            for matrix in matrices:
                way(x, matrix, None)
            taken.append(time.perf_counter() - began)
    return min(seconds[transposed][1:]) < MARGIN * min(seconds[F.linear][1:])


def _machine() -> str:
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        processor = names[0].partition(":")[2].strip() if names else processor
    return f"{processor}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def _read(path: Path) -> dict[str, list[int]]:
    if not path.is_file():
        return {}
    try:
        return strict_json.typed(dict[str, tuple[int, ...]], strict_json.read(path, str(path)))
    except ValueError as error:
        logger.warning("%s: measuring matrix products again", error)
        return {}
