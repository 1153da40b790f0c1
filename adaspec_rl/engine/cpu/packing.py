"""Matrices as the compiled decoder reads them: panels of 16 outputs, in four precisions.

A panel stores, input by input, the weights of its 16 outputs side by side: one vector register for
each input. Outputs are padded to whole panels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from adaspec_rl.engine.cpu.huge_pages import HugePages, give_back_memory
from adaspec_rl.engine.weights import LayerWeights, Stored

LANES = 16  # outputs of a panel
GROUP = 32  # inputs that share a scale and a minimum in int4
_TINY = 1e-30
_SLAB = 1 << 18  # weights that are packed at a time
PRECISIONS = ("float32", "bfloat16", "int8", "int4")


@dataclass(slots=True)
class PackedMatrix:
    """A matrix `[outputs, inputs]` and the bias that is added to its product.

    Attributes:
        data: float32 `[panels, inputs, 16, 1]`; bfloat16 `[panels, inputs / 2, 16, 2]`; int8
            `[panels, inputs / 4, 16, 4]` uint8, numbers from 1 to 255 that stand for 128 less; int4
            `[panels, inputs / 8, 16, 4]` uint8, the lower half of each byte before the upper one.
        scales: int8: float32 `[panels, 16]`; int4: float16 `[panels, inputs / 32, 16, 1]`.
        minima: int4: like `scales`. A weight is `minimum + scale * number`, the number 0 to 15.
        bias: float32 `[panels, 16]`.
        inputs: padded to a multiple of 2, or of 32 in int8 and int4.
    """

    data: torch.Tensor
    scales: torch.Tensor | None
    minima: torch.Tensor | None
    bias: torch.Tensor | None
    outputs: int
    inputs: int
    precision: str

    def tensors(self) -> list[torch.Tensor]:
        """The tensors that this matrix has."""
        return [t for t in (self.data, self.scales, self.minima, self.bias) if t is not None]

    def same(self, other: "PackedMatrix") -> bool:
        """Whether both hold the same values in the same precision."""
        ours, theirs = self.tensors(), other.tensors()
        alike = (self.outputs, self.precision) == (other.outputs, other.precision)
        return (
            alike
            and len(ours) == len(theirs)
            and all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(ours, theirs))
        )


@dataclass(slots=True)
class PackedLayer:
    """One layer; everything but matrices is float32."""

    attention_norm: torch.Tensor  # [hidden]
    qkv: PackedMatrix
    qk_norm: torch.Tensor | None  # [heads + kv_heads, head_dim]
    output: PackedMatrix
    mlp_norm: torch.Tensor  # [hidden]
    gate_up: PackedMatrix  # a panel of gates, a panel of ups, and so on
    down: PackedMatrix


@dataclass(slots=True)
class PackedWeights:
    """A whole model. If embedding and output matrix are tied, `head` is the embedding itself."""

    embedding: PackedMatrix
    layers: list[PackedLayer]
    norm: torch.Tensor  # [hidden]
    head: PackedMatrix
    dtype: torch.dtype  # of what is not quantised: keys and values
    output_tokens: torch.Tensor | None = None  # see `Weights`
    feature_norm: torch.Tensor | None = None
    feature: PackedMatrix | None = None


class Packer:
    """Packs float32 or bfloat16 weights one by one, as they are read, into huge pages.

    The output matrix always has at least 8 bits, as it directly decides every token. A tied
    embedding is the same matrix: its rows are read out of the panels. A separate embedding is not
    quantised.
    """

    def __init__(self, dtype: torch.dtype, quantize: str | None = None) -> None:
        """`quantize`: `int8` or `int4`; by default the weights keep their type, `dtype`."""
        self._own = str(dtype).removeprefix("torch.")
        self._precision = quantize or self._own
        self._pages = HugePages()

    def embedding(self, matrix: Stored, *, tied: bool) -> PackedMatrix:
        """The embedding `[vocab, hidden]`; `tied`: it is also the output matrix."""
        return self.head(matrix) if tied else self._packed(matrix, None, self._own)

    def head(self, matrix: Stored) -> PackedMatrix:
        """The output matrix `[vocab, hidden]`."""
        precision = "int8" if self._precision == "int4" else self._precision
        return self._packed(matrix, None, precision)

    def layer(self, w: LayerWeights) -> PackedLayer:
        """A layer, packed."""
        precision = self._precision
        gate_up_bias = None if w.gate_up_bias is None else _alternating(w.gate_up_bias)
        packed = PackedLayer(
            attention_norm=_float32(w.attention_norm),
            qkv=self._packed(w.qkv, w.qkv_bias, precision),
            qk_norm=None if w.qk_norm is None else _float32(w.qk_norm),
            output=self._packed(w.output, w.output_bias, precision),
            mlp_norm=_float32(w.mlp_norm),
            gate_up=self._packed(_alternating(w.gate_up), gate_up_bias, precision),
            down=self._packed(w.down, w.down_bias, precision),
        )
        give_back_memory()
        return packed

    def _packed(self, matrix: Stored, bias: torch.Tensor | None, precision: str) -> PackedMatrix:
        return pack(matrix, bias, precision, self._pages)


def pack(
    matrix: Stored,
    bias: torch.Tensor | None,
    precision: str,
    pages: HugePages | None = None,
) -> PackedMatrix:
    """Pack a float `matrix` `[outputs, inputs]` in `precision`, into `pages` or its own pages.

    int8 has one scale per output, which maps its largest weight to 127. int4 has a scale and a
    minimum for every 32 weights, which map them to 0 to 15; weights from Q4_0 or Q4_1 blocks of a
    GGUF file are reproduced exactly.

    Rows are packed a few at a time, so that the matrix is never in memory twice.
    """
    rows = max(1, _SLAB // (LANES * matrix.shape[1])) * LANES
    panels = -(-len(matrix) // LANES)
    data = None
    scaling: list[Sequence[torch.Tensor]] = []
    for number, slab in enumerate(matrix.split(rows)):
        encoded, *own = _encoded(_filled(slab), precision)
        packed = _panels(encoded, 4 // encoded.element_size())
        if data is None:
            data = (pages or HugePages()).empty((panels, *packed.shape[1:]), packed.dtype)
        data[number * rows // LANES :][: len(packed)] = packed
        scaling.append(own)
    assert data is not None
    scales, minima = ([*map(torch.cat, zip(*scaling))] + [None, None])[:2]
    bias = None if bias is None else _filled(_float32(bias)).view(-1, LANES)
    inputs = data.shape[1] * data.shape[3] * (2 if precision == "int4" else 1)
    return PackedMatrix(data, scales, minima, bias, len(matrix), inputs, precision)


def _encoded(rows: torch.Tensor, precision: str) -> tuple[torch.Tensor, ...]:
    """Whole panels of rows in stored form `[rows, ...]`, with their scales and minima."""
    if precision == "int8":
        rows = _widened(rows.float(), GROUP)
        scale = rows.abs().amax(1) / 127
        numbers = (rows / scale.clamp_min(_TINY)[:, None]).round_().add_(128).to(torch.uint8)
        return numbers, scale.view(-1, LANES)
    if precision == "int4":
        groups = _widened(rows.float(), GROUP).unflatten(1, (-1, GROUP))
        low, high = groups.aminmax(dim=2)
        scales, minima = ((high - low) / 15).half(), low.half()
        steps = (groups - minima.float()[..., None]) / scales.float().clamp_min(_TINY)[..., None]
        numbers = steps.round_().clamp_(0, 15).to(torch.uint8)
        first, second = numbers.view(len(rows), -1, 2, 4).unbind(2)
        return (first | second << 4).flatten(1), _panels(scales, 1), _panels(minima, 1)
    return (_widened(rows.to(getattr(torch, precision)), 2),)


def rows_of(matrix: PackedMatrix, ids: torch.Tensor) -> PackedMatrix:
    """The outputs `ids` of a packed matrix, in its precision."""
    panel, lane = ids // LANES, ids % LANES

    def chosen(panels: torch.Tensor | None) -> torch.Tensor | None:
        if panels is None:
            return None
        if panels.dim() == 2:  # one number per output
            return _filled(panels[panel, lane]).view(-1, LANES)
        rows = _filled(panels[panel, :, lane])  # [ids, inputs / together, together]
        found = _panels(rows.flatten(1), rows.shape[2])
        return HugePages().empty(found.shape, found.dtype).copy_(found)

    data = chosen(matrix.data)
    assert data is not None
    scales, minima, bias = map(chosen, (matrix.scales, matrix.minima, matrix.bias))
    return PackedMatrix(data, scales, minima, bias, len(ids), matrix.inputs, matrix.precision)


def unpack(matrix: PackedMatrix) -> torch.Tensor:
    """The values that a packed matrix stands for, float32 `[outputs, inputs]`."""

    def rows(panels: torch.Tensor) -> torch.Tensor:
        return panels.transpose(1, 2).flatten(0, 1).flatten(1)

    values = rows(matrix.data)
    if matrix.precision == "int8":
        assert matrix.scales is not None
        values = (values.float() - 128) * matrix.scales.view(-1, 1)
    elif matrix.precision == "int4":
        assert matrix.scales is not None and matrix.minima is not None
        quads = values.unflatten(1, (-1, 4))
        numbers = torch.stack([quads & 15, quads >> 4], dim=2).float().view(len(quads), -1, GROUP)
        scales, minima = rows(matrix.scales).float(), rows(matrix.minima).float()
        values = (numbers * scales[..., None] + minima[..., None]).flatten(1)
    return values[: matrix.outputs].float()


def _float32(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.float32, copy=True)


def _panels(rows: torch.Tensor, together: int) -> torch.Tensor:
    """A view of `[outputs, inputs]` as `[panels, inputs / together, 16, together]`."""
    return rows.unflatten(0, (-1, LANES)).unflatten(2, (-1, together)).transpose(1, 2)


def _widened(rows: torch.Tensor, multiple: int) -> torch.Tensor:
    """Pad inputs to a multiple by repeating the last one, so that no group's range changes."""
    missing = -rows.shape[1] % multiple
    return rows if not missing else torch.cat([rows, rows[:, -1:].expand(-1, missing)], dim=1)


def _filled(rows: torch.Tensor) -> torch.Tensor:
    """Pad rows with zeros to whole panels."""
    missing = -len(rows) % LANES
    return rows if not missing else F.pad(rows, (0, 0) * (rows.dim() - 1) + (0, missing))


def _alternating(gate_up: torch.Tensor) -> torch.Tensor:
    """Reorder gates and ups `[2 n, ...]` into a panel of gates, a panel of ups, and so on."""
    gate, up = (_filled(part).unflatten(0, (-1, LANES)) for part in gate_up.chunk(2))
    return torch.stack([gate, up], dim=1).flatten(0, 2)
