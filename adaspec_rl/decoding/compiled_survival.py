"""Survival heads in compiled code, so that several estimates take one call."""

import ctypes
from dataclasses import dataclass

import numpy as np

from adaspec_rl.decoding.compiled_automaton import CompiledAutomaton
from adaspec_rl.engine.cpu.build import library

_Pointer, _Integer = ctypes.c_void_p, ctypes.c_int64


class _Head(ctypes.Structure):
    """It mirrors `survival.h`."""

    _fields_ = [
        ("agreement", _Pointer),
        ("surprise", _Pointer),
        ("token", _Pointer),
        ("previous", _Pointer),
        ("margins", _Pointer),
        ("surprises", _Pointer),
        ("margin_count", _Integer),
        ("surprise_count", _Integer),
        ("match_limit", _Integer),
    ]


@dataclass(frozen=True, slots=True)
class Curves:
    """Curves that are linear between knots."""

    knots: np.ndarray  # [K] float64
    values: np.ndarray  # [rows, 2, K] float64: at the knots, and slopes after them


class CompiledHead:
    """The numbers of a `SurvivalHead` as compiled code reads them.

    Attributes:
        address: of its structure.
    """

    def __init__(
        self,
        agreement: Curves,
        surprise: Curves,
        token: np.ndarray,
        previous: np.ndarray,
        match_limit: int,
    ) -> None:
        """`token` and `previous` are `[V]` float64; `surprise` has no row if it is not used."""
        arrays = (agreement.values, surprise.values, token, previous)
        self._kept = (*arrays, agreement.knots, surprise.knots)  # alive as long as the pointers
        places = [values.ctypes.data if values.size else None for values in self._kept]
        self._head = _Head(*places, len(agreement.knots), len(surprise.knots), match_limit)
        self.address = ctypes.addressof(self._head)
        self._forecast = library().lookup_forecast
        self._forecast.argtypes = [
            _Pointer,
            _Pointer,
            _Integer,
            _Integer,
            ctypes.c_double,
            _Pointer,
        ]
        self._forecast.restype = None

    def forecast(
        self, text: CompiledAutomaton, depth: int, negligible: float
    ) -> tuple[float, float]:
        """See `forecast.forecast`."""
        found = (ctypes.c_double * 2)()
        self._forecast(text.address, self.address, text.tokens[-1], depth, negligible, found)
        return found[0], found[1]
