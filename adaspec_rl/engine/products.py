"""Multiplies a few rows by a matrix on a CPU, in whichever way was measured to be faster.

A narrow product reads its matrix once and should take no longer than that. Which call comes close
depends on the processor and on the number of rows: on some processors, `F.linear` takes three times
as long for four rows as `W @ x.T` does; on others, it is faster.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from adaspec_rl import strict_json
from adaspec_rl.engine.machine import cache_folder, processor
from adaspec_rl.files import write_atomically

WIDTHS = (1, 2, 4, 8, 16)  # numbers of rows that are measured; others use the next larger one
PADDED = 4  # rows to which narrower products may be padded, where that is faster
MARGIN = 0.9  # another way is chosen only below this share of F.linear's time
SMALLEST = 1 << 16  # values: smaller matrices stay in the processor's cache and take no time
PASSES, ENOUGH = 4, 0.02  # the least passes over all matrices of a shape, and seconds

Shape = tuple[int, int]  # outputs, inputs
Linear = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]

logger = logging.getLogger(__name__)


def transposed(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *, columns: int = 0
) -> torch.Tensor:
    """`F.linear(x, weight, bias)` of `x` `[..., inputs]`, computed as `weight @ x.T`.

    `x.T` is padded to `columns` with zeros: reading the matrix takes the time, not the arithmetic,
    and a single column may use a slower routine than four columns.
    """
    flat = x.reshape(-1, x.shape[-1])
    rows = len(flat)
    if rows < columns:
        flat = F.pad(flat, (0, 0, 0, columns - rows))
    out = torch.mm(weight, flat.t())[:, :rows].t().contiguous().view(*x.shape[:-1], -1)
    return out if bias is None else out.add_(bias)


@dataclass(frozen=True, slots=True)
class Products:
    """The fastest way to multiply, for each shape of matrix and number of rows.

    Attributes:
        columns: by shape, for each of `WIDTHS`, the columns of `transposed`; 0 is `F.linear`.
    """

    columns: Mapping[Shape, Sequence[int]]

    def linear(self, weight: torch.Tensor, rows: int) -> Linear:
        """The fastest function for `rows` rows."""
        chosen = self.columns.get((weight.shape[0], weight.shape[1]))
        if chosen is None or rows > WIDTHS[-1]:
            return F.linear
        columns = next(n for width, n in zip(WIDTHS, chosen) if rows <= width)
        return partial(transposed, columns=columns) if columns else F.linear


LINEAR = Products({})  # F.linear throughout


def measured_products(matrices: Sequence[torch.Tensor]) -> Products:
    """Measure all ways with a model's own `matrices` `[outputs, inputs]`, all on the CPU.

    The quickest pass counts, as other load on the machine can only make passes slower. Results are
    kept in the user's cache folder, by processor, threads, torch, dtype and shape. So a machine
    always chooses the same way, and its rounding does not change.
    """
    path = cache_folder() / "narrow_products.json"
    known = _read(path)
    by_shape: dict[Shape, list[torch.Tensor]] = {}
    for matrix in matrices:
        if matrix.numel() >= SMALLEST:
            by_shape.setdefault((matrix.shape[0], matrix.shape[1]), []).append(matrix)
    found = {}
    for shape, members in by_shape.items():
        key = f"{_machine()}, {members[0].dtype}, {shape[0]} x {shape[1]}"
        if len(known.get(key, ())) != len(WIDTHS):
            known[key] = [_fastest(members, width) for width in WIDTHS]
        found[shape] = known[key]
    if known != _read(path):
        try:
            write_atomically(path, json.dumps(known, indent=2, sort_keys=True) + "\n")
        except ValueError as error:  # a read-only home
            logger.info("the choice of matrix products is not kept: %s", error)
    return Products(found)


@torch.inference_mode()
def _fastest(matrices: Sequence[torch.Tensor], width: int) -> int:
    """The columns of the fastest way for `width` rows; 0 is `F.linear`."""
    x = torch.ones(width, matrices[0].shape[1], dtype=matrices[0].dtype)
    ways: dict[int, Linear] = {0: F.linear}
    for columns in {width, max(width, PADDED)}:
        ways[columns] = partial(transposed, columns=columns)
    seconds: dict[int, list[float]] = {columns: [] for columns in ways}
    until = time.perf_counter() + ENOUGH
    while len(seconds[0]) < PASSES or time.perf_counter() < until:
        for columns, way in ways.items():
            began = time.perf_counter()
            for matrix in matrices:
                way(x, matrix, None)
            seconds[columns].append(time.perf_counter() - began)
    best = {columns: min(taken[1:]) for columns, taken in seconds.items()}
    quickest = min(best, key=lambda columns: best[columns])
    return quickest if best[quickest] < MARGIN * best[0] else 0


def _machine() -> str:
    return f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def _read(path: Path) -> dict[str, list[int]]:
    if not path.is_file():
        return {}
    try:
        return strict_json.typed(dict[str, tuple[int, ...]], strict_json.read(path, str(path)))
    except ValueError as error:
        logger.warning("%s: measuring matrix products again", error)
        return {}
