"""The best drafts of a batch in compiled code, which takes a fraction of the time."""

import ctypes
from collections.abc import Sequence

import numpy as np

from adaspec_rl.control.batching.outlook import Outlook
from adaspec_rl.control.batching.plan import ALIKE, Here, Plan, Rates
from adaspec_rl.decoding.round import FALLBACK, Action

_Pointer, _Integer, _Real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double

LANES = 16  # numbers in a vector, see `vectors.h`
AT_ONCE = 4  # thresholds that are evaluated together, see `plan.cpp`
KNOWN = 64  # places whose seconds are kept


class _Outlook(ctypes.Structure):
    """It mirrors `plan.cpp`, as do the structures below."""

    _fields_ = [
        ("layers", _Integer),
        ("inputs", _Pointer),
        ("outputs", _Pointer),
        ("weights", _Pointer),
        ("biases", _Pointer),
        ("drafters", _Integer),
        ("depth", _Integer),
    ]


class _Seconds(ctypes.Structure):
    _fields_ = [
        ("verifying", _Pointer),
        ("once", _Pointer),
        ("each", _Pointer),
        ("begins", _Pointer),
        ("begun", _Pointer),
        ("points", _Integer),
        ("unread", _Pointer),
        ("reading", _Pointer),
    ]


class _Look(ctypes.Structure):
    _fields_ = [
        ("rows", _Integer),
        ("observations", _Pointer),
        ("row_stride", _Integer),
        ("feature_stride", _Integer),
        ("unread", _Pointer),
        ("price", _Real),
        ("stop", _Real),
        ("rate", _Real),
        ("verify", _Real),
        ("draft", _Real),
        ("read", _Real),
        ("alike", _Integer),
        ("thresholds", _Pointer),
    ]


class _Plan(ctypes.Structure):
    _fields_ = [
        ("actions", _Pointer),
        ("gain", _Real),
        ("together", _Real),
        ("threshold", _Integer),
        ("drafter", _Integer),
        ("length", _Integer),
    ]


class CompiledPlanner:
    """`best_drafts` of an outlook; not for several threads at once."""

    def __init__(self, compiled: ctypes.CDLL, outlook: Outlook) -> None:
        assert len(ALIKE) % AT_ONCE == 0
        self._lengths, self._features = outlook.depth + 1, len(outlook.spec)
        self._outlook, self._kept = _compiled(outlook)
        self._thresholds = np.array(ALIKE, np.float32)
        self._here: dict[int, tuple[Here, _Seconds, list[np.ndarray]]] = {}
        self._plan = compiled.plan_drafts
        self._plan.argtypes, self._plan.restype = [_Pointer] * 4, None

    def __call__(
        self, observations: np.ndarray, unread: np.ndarray, here: Here, rates: Rates, alike: bool
    ) -> Plan:
        rows, features = observations.shape
        assert observations.dtype == np.float32 and features == self._features
        assert unread.flags.c_contiguous and unread.dtype == np.float64 and len(unread) == rows
        assert len(here.verifying) == rows * (self._lengths - 1) + 1
        across, along = observations.strides
        look = _Look(
            rows,
            observations.ctypes.data,
            across // 4,
            along // 4,
            unread.ctypes.data,
            *(rates.price, rates.stop, rates.rate, rates.verify, rates.draft, rates.read),
            len(ALIKE) if alike else 0,
            self._thresholds.ctypes.data,
        )
        actions = np.empty(rows, np.int64)
        found = _Plan(actions.ctypes.data)
        self._plan(
            ctypes.addressof(self._outlook),
            ctypes.addressof(self._seconds(here)),
            ctypes.addressof(look),
            ctypes.addressof(found),
        )
        drafters, lengths = np.divmod(actions, self._lengths)
        same = FALLBACK
        if found.length:
            same = Action(found.length, found.drafter, ALIKE[found.threshold])
        return Plan(drafters.tolist(), lengths.tolist(), found.gain, same, found.together)

    def _seconds(self, here: Here) -> _Seconds:
        """The structure of `here`, made once."""
        known = self._here.get(id(here))
        if known is None:
            parts = (here.verifying, here.once, here.each, here.begins, here.begun)
            arrays = [
                np.ascontiguousarray(a, np.float64) for a in (*parts, here.unread, here.reading)
            ]
            *first, unread, reading = (array.ctypes.data for array in arrays)
            if len(self._here) >= KNOWN:
                self._here.clear()
            known = here, _Seconds(*first, len(here.unread), unread, reading), arrays
            self._here[id(here)] = known
        return known[1]


def _compiled(outlook: Outlook) -> tuple[_Outlook, Sequence[object]]:
    """The outlook's structure, and what must live as long."""
    weights, biases = outlook.network.weights, outlook.network.biases
    count = len(weights)
    padded = [-len(bias) % LANES for bias in biases]
    arrays = [
        *(np.pad(w, ((0, 0), (0, more))) for w, more in zip(weights, padded)),
        *(np.pad(b, (0, more)) for b, more in zip(biases, padded)),
    ]
    arrays = [np.ascontiguousarray(array, np.float32) for array in arrays]
    places = [array.ctypes.data for array in arrays]
    sizes, pointers = _Integer * count, _Pointer * count
    parts = (
        sizes(*(len(w) for w in weights)),
        sizes(*(len(b) for b in arrays[count:])),
        pointers(*places[:count]),
        pointers(*places[count:]),
    )
    addresses = [ctypes.addressof(part) for part in parts]
    made = _Outlook(count, *addresses, outlook.spec.drafters, outlook.depth)
    return made, (arrays, parts)
