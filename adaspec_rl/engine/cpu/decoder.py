"""The compiled forward pass of one model."""

import ctypes
from dataclasses import dataclass
from typing import Any

import torch

from adaspec_rl.engine.architecture import Architecture
from adaspec_rl.engine.cpu.build import library
from adaspec_rl.engine.cpu.packing import PRECISIONS, PackedMatrix, PackedWeights
from adaspec_rl.engine.kv_cache import KVCache

_UNKNOWN_TOKEN, _NOT_FINITE = 1, 2  # what `forward` returns
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
        ("starts", _Pointer),
        ("positions", _Pointer),
        ("mask", _Pointer),
        ("places", _Pointer),
        ("mask_stride", _Integer),
        ("rope", _Pointer),
        ("cache", _Pointer),
        ("capacity", _Integer),
        ("batch", _Integer),
        ("width", _Integer),
        ("span", _Integer),
        ("layers", _Integer),
        ("keep", _Integer),
        ("states", _Integer),
        ("threads", _Integer),
        ("hidden", _Pointer),
        ("logits", _Pointer),
    ]


class _Draft(ctypes.Structure):
    _fields_ = [
        ("length", _Integer),
        ("choices", _Integer),
        ("temperature", ctypes.c_float),
        ("noise", _Pointer),
        ("ids", _Pointer),
        ("tokens", _Pointer),
        ("places", _Pointer),
    ]


class CpuDecoder:
    """The layers of a model, without any state. Its structures are those of `decoder.cpp`."""

    def __init__(self, architecture: Architecture, weights: PackedWeights) -> None:
        """`weights` stay where they are while this lives."""
        self._architecture, self._weights = architecture, weights
        self._forward, self._draft = library().forward, library().draft
        self._layers = (_Layer * architecture.layers)(
            *(
                _Layer(
                    _pointer(w.attention_norm),
                    _pointer(w.qk_norm),
                    _pointer(w.mlp_norm),
                    _matrix(w.qkv),
                    _matrix(w.output),
                    _matrix(w.gate_up),
                    _matrix(w.down),
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
            _matrix(weights.embedding),
            _matrix(weights.head),
            _Matrix() if weights.feature is None else _matrix(weights.feature),
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
            states: hidden states of the last so many tokens, `keep` or more; by default `keep`.
            features: float32 `[B, W, hidden]`, for a model that reads them.
            positions: `[B, W]`; by default the slots that the tokens take.
            mask: `[B or 1, W, L]` bool, the slots that each token sees, in the order of the text.
            places: `[B, capacity]`, positions by slot; masks over sliding windows need them.

        Returns: float32 logits `[B, K, V]` of the last `K = keep` tokens, the normalised hidden
        states of the last `states`, `[B, states, hidden]`, and whether all logits are finite.

        Raises:
            IndexError: a token is not in the vocabulary.
        """
        batch, width = tokens.shape
        states = keep if states is None else states
        logits = torch.empty(batch, keep, self._weights.head.outputs)
        hidden = torch.empty(batch, states, self._architecture.hidden_size)
        # Named, so that what pointers point to lives until the call is over.
        inputs = (
            tokens.contiguous(),
            None if features is None else features.float().contiguous(),
            (_Integer * batch)(*cache.lengths),
            None if positions is None else positions.expand(batch, width).contiguous(),
            None if mask is None else mask.contiguous(),
            places,
        )
        what = self._pass(inputs, cache, rope, layers, keep, states, hidden, logits)
        outcome = self._forward(ctypes.byref(self._model), ctypes.byref(what))
        self._check(outcome, tokens)
        return logits, hidden, outcome != _NOT_FINITE

    def draft(
        self,
        tokens: torch.Tensor,
        cache: KVCache,
        rope: torch.Tensor,
        *,
        length: int,
        choices: int,
        temperature: float,
        layers: int,
        noise: torch.Tensor | None = None,
        ids: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
        places: torch.Tensor | None = None,
    ) -> "Drafted":
        """Read `tokens` `[1, W]`, then draft `length` tokens, reading all but the last of them.

        Each is the one of the first `choices` outputs with the largest logit / `temperature` +
        noise.

        Args:
            noise: float32 `[length, choices]`; None: none.
            ids: int64 `[choices]`, the tokens that outputs stand for; None: their numbers.
            features: float32 `[1, W, hidden]`, for a model that reads them: after the tokens given,
                its own hidden states stand in for them.

        Raises:
            IndexError: a token is not in the vocabulary.
        """
        logits = torch.empty(length, self._weights.head.outputs)
        hidden = torch.empty(length, self._architecture.hidden_size)
        drafted, outputs = torch.empty(2, length, dtype=torch.long)
        inputs = (
            tokens.contiguous(),
            None if features is None else features.float().contiguous(),
            (_Integer * 1)(*cache.lengths),
            None,
            None,
            places,
        )
        what = self._pass(inputs, cache, rope, layers, 1, 1, hidden, logits)
        how = _Draft(
            length,
            choices,
            temperature,
            _pointer(noise),
            _pointer(ids),
            drafted.data_ptr(),
            outputs.data_ptr(),
        )
        outcome = self._draft(ctypes.byref(self._model), ctypes.byref(what), ctypes.byref(how))
        self._check(outcome, tokens)
        return Drafted(drafted, outputs, logits, hidden, outcome != _NOT_FINITE)

    def _pass(
        self,
        inputs: "_Inputs",
        cache: KVCache,
        rope: torch.Tensor,
        layers: int,
        keep: int,
        states: int,
        hidden: torch.Tensor,
        logits: torch.Tensor,
    ) -> _Pass:
        tokens, features, starts, positions, mask, places = inputs
        batch, width = tokens.shape
        self._model.bfloat16_cache = cache.data.dtype == torch.bfloat16
        return _Pass(
            tokens.data_ptr(),
            _pointer(features),
            ctypes.addressof(starts),
            _pointer(positions),
            _pointer(mask),
            _pointer(places),
            0 if mask is None or len(mask) == 1 else mask.stride(0),
            rope.data_ptr(),
            cache.data.data_ptr(),
            cache.capacity,
            batch,
            width,
            cache.longest + width,
            layers,
            keep,
            states,
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

    def __reduce__(self) -> tuple[Any, ...]:
        """Pointers are made anew where it is copied or unpickled."""
        return CpuDecoder, (self._architecture, self._weights)


@dataclass(frozen=True, slots=True)
class Drafted:
    """Tokens drafted in one call."""

    tokens: torch.Tensor  # [k] int64
    places: torch.Tensor  # [k] int64, the outputs that stand for them
    logits: torch.Tensor  # [k, outputs] float32, that they were chosen from
    hidden: torch.Tensor  # [k, hidden] float32, normalised, that these come from
    finite: bool  # whether all logits are


# Tokens, features, starts, positions, mask, places.
_Inputs = tuple[
    torch.Tensor,
    torch.Tensor | None,
    Any,
    torch.Tensor | None,
    torch.Tensor | None,
    torch.Tensor | None,
]


def _pointer(tensor: torch.Tensor | None) -> int | None:
    if tensor is None:
        return None
    assert tensor.is_contiguous()
    return tensor.data_ptr()


def _matrix(matrix: PackedMatrix) -> _Matrix:
    return _Matrix(
        _pointer(matrix.data),
        _pointer(matrix.scales),
        _pointer(matrix.minima),
        _pointer(matrix.bias),
        matrix.outputs,
        matrix.inputs,
        PRECISIONS.index(matrix.precision),
    )
