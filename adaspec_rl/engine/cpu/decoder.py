"""The compiled forward pass of one model."""

import ctypes
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch

from adaspec_rl.engine.architecture import Architecture
from adaspec_rl.engine.cpu.build import library
from adaspec_rl.engine.cpu.packing import PRECISIONS, PackedMatrix, PackedWeights
from adaspec_rl.engine.extension import Extension
from adaspec_rl.engine.kv_cache import KVCache

_UNKNOWN_TOKEN, _NOT_FINITE = 1, 2  # what `forward` returns
_BFLOAT16_PAIRS = len(PRECISIONS)  # after these in `Kind`
_Pointer, _Integer = ctypes.c_void_p, ctypes.c_int64


class _Matrix(ctypes.Structure):
    _fields_ = [
        ("data", _Pointer),
        ("scales", _Pointer),
        ("minima", _Pointer),
        ("bias", _Pointer),
        ("outputs", _Integer),
        ("inputs", _Integer),
        ("kind", _Integer),
    ]


class _Layer(ctypes.Structure):
    _fields_ = [
        ("attention_norm", _Pointer),
        ("qk_norm", _Pointer),
        ("mlp_norm", _Pointer),
        ("qkv", _Matrix),
        ("output", _Matrix),
        ("gate_up", _Matrix),
        ("down", _Matrix),
        ("window", _Integer),
    ]


class _Model(ctypes.Structure):
    _fields_ = [
        ("layers", _Pointer),
        ("norm", _Pointer),
        ("feature_norm", _Pointer),
        ("embedding", _Matrix),
        ("head", _Matrix),
        ("feature", _Matrix),
        ("hidden", _Integer),
        ("heads", _Integer),
        ("kv_heads", _Integer),
        ("head_dim", _Integer),
        ("intermediate", _Integer),
        ("norm_eps", ctypes.c_float),
        ("bfloat16_cache", _Integer),
    ]


class _Pass(ctypes.Structure):
    _fields_ = [
        ("tokens", _Pointer),
        ("features", _Pointer),
        ("widths", _Pointer),
        ("keeps", _Pointer),
        ("states", _Pointer),
        ("rows", _Pointer),
        ("starts", _Pointer),
        ("positions", _Pointer),
        ("mask", _Pointer),
        ("places", _Pointer),
        ("mask_stride", _Integer),
        ("rope", _Pointer),
        ("cache", _Pointer),
        ("cache_rows", _Integer),
        ("capacity", _Integer),
        ("batch", _Integer),
        ("span", _Integer),
        ("layers", _Integer),
        ("threads", _Integer),
        ("hidden", _Pointer),
        ("logits", _Pointer),
    ]


class _Stop(ctypes.Structure):
    _fields_ = [
        ("text", _Pointer),
        ("head", _Pointer),
        ("last", _Integer),
        ("least", ctypes.c_double),
    ]


class _Draft(ctypes.Structure):
    _fields_ = [
        ("lengths", _Pointer),
        ("most", _Integer),
        ("choices", _Integer),
        ("temperature", ctypes.c_float),
        ("limit", ctypes.c_float),
        ("noise", _Pointer),
        ("ids", _Pointer),
        ("stops", _Pointer),
        ("counts", _Pointer),
        ("tokens", _Pointer),
        ("places", _Pointer),
        ("stored", _Pointer),
        ("finite", _Pointer),
        ("chances", _Pointer),
    ]


class CpuDecoder:
    """The layers of a model, without any state. Its structures mirror those of `decoder.cpp`."""

    def __init__(
        self, architecture: Architecture, weights: PackedWeights, *, pairs: bool = False
    ) -> None:
        """`weights` must not move while the decoder lives.

        Args:
            pairs: bfloat16 uses the processor's instruction for pairs of numbers.
        """
        assert not pairs or library().multiplies_bfloat16()
        self._architecture, self._weights, self._pairs = architecture, weights, pairs
        self._forward, self._draft = library().forward, library().draft
        self._layers = (_Layer * architecture.layers)(
            *(
                _Layer(
                    _pointer(w.attention_norm),
                    _pointer(w.qk_norm),
                    _pointer(w.mlp_norm),
                    _matrix(w.qkv, pairs),
                    _matrix(w.output, pairs),
                    _matrix(w.gate_up, pairs),
                    _matrix(w.down, pairs),
                    window or 0,
                )
                for w, window in zip(weights.layers, architecture.windows)
            )
        )
        a = architecture
        self._model = _Model(
            ctypes.addressof(self._layers),
            _pointer(weights.norm),
            _pointer(weights.feature_norm),
            _matrix(weights.embedding, pairs),
            _matrix(weights.head, pairs),
            _Matrix() if weights.feature is None else _matrix(weights.feature, pairs),
            a.hidden_size,
            a.heads,
            a.kv_heads,
            a.head_dim,
            a.intermediate_size,
            a.norm_eps,
        )

    def run(
        self,
        tokens: torch.Tensor,
        cache: KVCache,
        rope: torch.Tensor,
        *,
        keep: int,
        layers: int,
        states: int | None = None,
        features: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        places: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, bool]:
        """Read `tokens` `[B, W]` through the first `layers` layers, into `cache`.

        Args:
            rope: complex64 `[capacity, D / 2]`.
            states: how many of the last tokens to return hidden states of, at least `keep`, the
                default.
            features: float32 `[B, W, hidden]`, for a model that reads them.
            positions: `[B, W]`; by default the cache slots that the tokens take.
            mask: `[B or 1, W, L]` bool, the slots that each token sees, in text order.
            places: `[B, capacity]`, the position in each slot; needed for masks over sliding
                windows.

        Returns: float32 logits `[B, K, V]` of the last `K = keep` tokens, the normalised hidden
        states of the last `states`, `[B, states, hidden]`, and whether all logits are finite.

        Raises:
            IndexError: a token is not in the vocabulary.
        """
        batch, width = tokens.shape
        states = keep if states is None else states
        logits = torch.empty(batch, keep, self._weights.head.outputs)
        hidden = torch.empty(batch, states, self._architecture.hidden_size)
        inputs = _Inputs(
            tokens.contiguous(),
            None if features is None else features.float().contiguous(),
            _Integers.of([width] * batch, [keep] * batch, [states] * batch, range(batch), cache),
            None if positions is None else positions.expand(batch, width).contiguous(),
            None if mask is None else mask.contiguous(),
            places,
        )
        what = self._pass(inputs, cache, rope, layers, hidden, logits)
        outcome = self._forward(ctypes.byref(self._model), ctypes.byref(what))
        self._check(outcome, tokens)
        return logits, hidden, outcome != _NOT_FINITE

    def run_rows(
        self,
        extensions: Sequence[Extension],
        cache: KVCache,
        rope: torch.Tensor,
        *,
        layers: int,
        places: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, bool]:
        """Read each row's own tokens; otherwise like `run`.

        Returns: logits `[sum of keep, V]` and hidden states `[sum of states, hidden]`, row after
        row, and whether all logits are finite.
        """
        logits = torch.empty(sum(part.keep for part in extensions), self._weights.head.outputs)
        states = sum(max(part.keep, part.states) for part in extensions)
        hidden = torch.empty(states, self._architecture.hidden_size)
        inputs = _Inputs.of(extensions, cache, places)
        what = self._pass(inputs, cache, rope, layers, hidden, logits)
        outcome = self._forward(ctypes.byref(self._model), ctypes.byref(what))
        self._check(outcome, inputs.tokens)
        return logits, hidden, outcome != _NOT_FINITE

    def draft(
        self,
        extensions: Sequence[Extension],
        cache: KVCache,
        rope: torch.Tensor,
        wanted: "DraftRequest",
        *,
        layers: int,
        ids: torch.Tensor | None = None,
        places: torch.Tensor | None = None,
    ) -> "list[Drafted]":
        """Read each row's own tokens, then draft after them, reading all drafted ones but the last.

        Args:
            extensions: with one row of logits each. Models that read features read their own hidden
                states with drafted tokens.
            ids: int64 `[choices]`, the tokens that the outputs stand for; None: output n is token
                n.

        Raises:
            IndexError: a token is not in the vocabulary.
        """
        rows, most = len(extensions), max(wanted.lengths)
        total = sum(wanted.lengths)
        before = sum(max(part.keep, part.states) - 1 for part in extensions)
        logits = torch.empty(total if wanted.logits else rows, self._weights.head.outputs)
        hidden = torch.empty(total + before, self._architecture.hidden_size)
        made = torch.empty(3, rows, most, dtype=torch.long)
        tokens, outputs, stored = made.unbind()
        chances = array("d", bytes(8 * rows * most))
        inputs = _Inputs.of(extensions, cache, places)
        what = self._pass(inputs, cache, rope, layers, hidden, logits)
        counts, finite = (_Integer * rows)(), (_Integer * rows)()
        lengths = (_Integer * rows)(*wanted.lengths)
        stops = (_Stop * rows)(*(_Stop(*stop) for stop in wanted.stops))
        noise = None
        if wanted.noise is not None:
            noise = (_Pointer * rows)(*(part.data_ptr() for part in wanted.noise))
        how = _Draft(
            ctypes.addressof(lengths),
            most,
            wanted.choices,
            wanted.temperature,
            wanted.limit,
            noise and ctypes.addressof(noise),
            _pointer(ids),
            ctypes.addressof(stops),
            ctypes.addressof(counts),
            tokens.data_ptr(),
            outputs.data_ptr(),
            stored.data_ptr() if wanted.logits else None,
            ctypes.addressof(finite),
            chances.buffer_info()[0],
        )
        outcome = self._draft(ctypes.byref(self._model), ctypes.byref(what), ctypes.byref(how))
        self._check(outcome, inputs.tokens)
        found = []
        for row, (count, own) in enumerate(zip(counts, tokens.unbind())):
            first = row * most
            estimated = chances[first : first + count].tolist() if wanted.stops[row].text else None
            kept = None
            if wanted.logits:
                kept = logits[:count] if rows == 1 else logits[stored[row, :count]]
            states = hidden[before : before + count] if rows == 1 else None
            places = None if ids is None else outputs[row, :count]
            found.append(Drafted(own[:count], places, kept, states, bool(finite[row]), estimated))
        return found

    def _pass(
        self,
        inputs: "_Inputs",
        cache: KVCache,
        rope: torch.Tensor,
        layers: int,
        hidden: torch.Tensor,
        logits: torch.Tensor,
    ) -> _Pass:
        """One pass. `inputs` must outlive the call, which holds pointers to them."""
        mask, whole = inputs.mask, inputs.integers
        self._model.bfloat16_cache = cache.data.dtype == torch.bfloat16
        return _Pass(
            inputs.tokens.data_ptr(),
            _pointer(inputs.features),
            *whole.addresses,
            _pointer(inputs.positions),
            _pointer(mask),
            _pointer(inputs.places),
            0 if mask is None or len(mask) == 1 else mask.stride(0),
            rope.data_ptr(),
            cache.data.data_ptr(),
            cache.batch,
            cache.capacity,
            whole.batch,
            whole.span if mask is None else mask.shape[-1],
            layers,
            torch.get_num_threads(),
            hidden.data_ptr(),
            logits.data_ptr(),
        )

    def _check(self, outcome: int, tokens: torch.Tensor) -> None:
        if outcome == _UNKNOWN_TOKEN:
            raise IndexError(
                f"tokens {int(tokens.min())} to {int(tokens.max())} were read: expected 0 to "
                f"{self._architecture.vocab_size - 1}"
            )

    def with_weights(self, weights: PackedWeights) -> "CpuDecoder":
        """A decoder with the same settings for other weights."""
        return CpuDecoder(self._architecture, weights, pairs=self._pairs)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pointers are made anew when the decoder is copied or unpickled."""
        return partial(CpuDecoder, pairs=self._pairs), (self._architecture, self._weights)


class StopBelow(NamedTuple):
    """Ends a row's draft after the token at which its estimated survival falls under `least`."""

    text: int | None = None  # the address of the row's `CompiledAutomaton`; None: nothing ends it
    head: int | None = None  # the address of a `CompiledHead`
    last: int = 0  # the row's last token
    least: float = 0.0


@dataclass(frozen=True, slots=True)
class DraftRequest:
    """How rows are drafted: each token has the largest logit / `temperature` + noise."""

    lengths: Sequence[int]  # [rows], at least 1
    choices: int  # how many of the first outputs to choose from
    temperature: float
    noise: Sequence[torch.Tensor] | None  # [rows], float32 [length, choices] each; None: none
    stops: Sequence[StopBelow]  # [rows]
    limit: float = math.inf  # of the margins by which survival is estimated
    logits: bool = True  # whether they are kept


@dataclass(frozen=True, slots=True)
class Drafted:
    """A row's tokens, drafted in one call."""

    tokens: torch.Tensor  # [k] int64
    places: torch.Tensor | None  # [k] int64, the outputs of the tokens; None: the same numbers
    logits: torch.Tensor | None  # [k, outputs] float32, if they are kept
    hidden: torch.Tensor | None  # [k, hidden] float32, normalised, of a single row
    finite: bool  # whether all logits are
    chances: list[float] | None  # that each token is accepted if those before are, if estimated


@dataclass(frozen=True, slots=True)
class _Integers:
    """For each text: its width, how many logits and states are kept, its row and its start."""

    batch: int
    span: int  # tokens of the longest text after the pass
    values: Any  # [5 * batch]

    @staticmethod
    def of(
        widths: Sequence[int],
        keeps: Sequence[int],
        states: Sequence[int],
        rows: Sequence[int],
        cache: KVCache,
    ) -> "_Integers":
        starts = [cache.lengths[row] for row in rows]
        span = max(start + width for start, width in zip(starts, widths))
        values = (*widths, *keeps, *states, *rows, *starts)
        return _Integers(len(starts), span, (_Integer * len(values))(*values))

    @property
    def addresses(self) -> list[int]:
        """The addresses of widths, keeps, states, rows and starts."""
        first, step = ctypes.addressof(self.values), self.batch * ctypes.sizeof(_Integer)
        return [first + number * step for number in range(5)]


@dataclass(frozen=True, slots=True)
class _Inputs:
    tokens: torch.Tensor
    features: torch.Tensor | None
    integers: _Integers
    positions: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    places: torch.Tensor | None = None

    @staticmethod
    def of(
        extensions: Sequence[Extension], cache: KVCache, places: torch.Tensor | None
    ) -> "_Inputs":
        """Of rows that each read their own tokens."""
        widths, keeps = [part.width for part in extensions], [part.keep for part in extensions]
        states = [max(part.keep, part.states) for part in extensions]
        seen = [part.features for part in extensions if part.features is not None]
        return _Inputs(
            torch.cat([part.tokens for part in extensions]),
            torch.cat(seen).float().contiguous() if seen else None,
            _Integers.of(widths, keeps, states, [part.row for part in extensions], cache),
            places=places,
        )


def _pointer(tensor: torch.Tensor | None) -> int | None:
    if tensor is None:
        return None
    assert tensor.is_contiguous()
    return tensor.data_ptr()


def _matrix(matrix: PackedMatrix, pairs: bool) -> _Matrix:
    pairs = pairs and matrix.precision == "bfloat16"
    return _Matrix(
        _pointer(matrix.data),
        _pointer(matrix.scales),
        _pointer(matrix.minima),
        _pointer(matrix.bias),
        matrix.outputs,
        matrix.inputs,
        _BFLOAT16_PAIRS if pairs else PRECISIONS.index(matrix.precision),
    )
