"""The choice of an actor network in compiled code, which takes a fraction of the time."""

import ctypes
from collections.abc import Sequence

import numpy as np

_Pointer, _Integer = ctypes.c_void_p, ctypes.c_int64


class _Actor(ctypes.Structure):
    """It mirrors `actor.cpp`."""

    _fields_ = [
        ("layers", _Integer),
        ("sizes", _Pointer),
        ("weights", _Pointer),
        ("biases", _Pointer),
    ]


class CompiledChoice:
    """The number of the action that an `Actor` prefers; not for several threads at once."""

    def __init__(
        self, compiled: ctypes.CDLL, weights: Sequence[np.ndarray], biases: Sequence[np.ndarray]
    ) -> None:
        layers = len(weights)
        sizes = [len(weights[0]), *(weight.shape[1] for weight in weights)]
        arrays = [np.ascontiguousarray(part, np.float32) for part in (*weights, *biases)]
        places = [part.ctypes.data for part in arrays]
        self._observation = np.zeros(sizes[0], dtype=np.float32)
        self._scratch = np.zeros(2 * max(sizes[1:]), dtype=np.float32)
        pointers = _Pointer * layers
        parts = (
            (_Integer * (layers + 1))(*sizes),
            pointers(*places[:layers]),
            pointers(*places[layers:]),
        )
        actor = _Actor(layers, *(ctypes.addressof(part) for part in parts))
        self._kept = (arrays, parts, actor)  # alive as long as the pointers
        given = self._observation.ctypes.data, self._scratch.ctypes.data
        self._arguments = ctypes.addressof(actor), *given
        self._choose = compiled.actor_choice
        self._choose.argtypes, self._choose.restype = [_Pointer] * 3, _Integer

    def __call__(self, observation: np.ndarray) -> int:
        """Of an observation `[features]`."""
        self._observation[:] = observation
        return int(self._choose(*self._arguments))
