"""The compiled forward pass of one model."""

import ctypes
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


class CpuDecoder:
    """The layers of a model, without any state. Its structures are those of `decoder.cpp`."""

    def __init__(self, architecture: Architecture, weights: PackedWeights) -> None:
        """`weights` stay where they are while this lives."""
        self._architecture, self._weights = architecture, weights
        self._forward = library().forward
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
        a = self._architecture
        batch, width = tokens.shape
        tokens = tokens.contiguous()
        starts = (_Integer * batch)(*cache.lengths)
        positions = None if positions is None else positions.expand(batch, width).contiguous()
        mask = None if mask is None else mask.contiguous()
        features = None if features is None else features.float().contiguous()
        states = keep if states is None else states
        logits = torch.empty(batch, keep, self._weights.head.outputs)
        hidden = torch.empty(batch, states, a.hidden_size)
        self._model.bfloat16_cache = cache.data.dtype == torch.bfloat16
        what = _Pass(
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
        outcome = self._forward(ctypes.byref(self._model), ctypes.byref(what))
        if outcome == _UNKNOWN_TOKEN:
            raise IndexError(
                f"tokens {int(tokens.min())} to {int(tokens.max())} were read: expected 0 to "
                f"{a.vocab_size - 1}"
            )
        return logits, hidden, outcome != _NOT_FINITE

    def __reduce__(self) -> tuple[Any, ...]:
        """Pointers are made anew where it is copied or unpickled."""
        return CpuDecoder, (self._architecture, self._weights)


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
