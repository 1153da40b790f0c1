"""A trigram table's picks in compiled code, which takes a fraction of the time."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from adaspec_rl.decoding.picks import LARGEST_MARGIN
from adaspec_rl.decoding.suffix_automaton import Suffix
from adaspec_rl.decoding.trigrams import TrigramTable
from adaspec_rl.decoding.verification import Coupled, Greedy, Verification
from adaspec_rl.engine.cpu.build import loaded

_Pointer, _Integer = ctypes.c_void_p, ctypes.c_int64


@dataclass(frozen=True, slots=True)
class CompiledPick:
    """What is known about a pick, see `Pick`."""

    token: int
    own_log_prob: float
    entropy: float
    margin: float  # of the table's first choice over the second
    choice_margin: float
    choice_margin_without_noise: float

    def weighed(self) -> tuple[int, float]:
        return self.token, self.choice_margin

    def log_prob(self) -> float:
        return self.own_log_prob

    def signals(self, noise: bool = True) -> tuple[float, float, float, float]:
        choice = self.choice_margin if noise else self.choice_margin_without_noise
        return self.own_log_prob, self.entropy, self.margin, choice


Picker = Callable[[int, int, Suffix, int], CompiledPick]  # previous, last, text's end, position


def compiled_picker(table: TrigramTable, rule: Verification) -> Picker | None:
    """Picks as `rule` does, or None if there is no compiled code for that.

    There is if temperature and noise alone decide, and models of this process run compiled.
    """
    compiled = loaded()
    if compiled is None:
        return None
    if type(rule) is Greedy:
        return _CompiledTable.of(table, compiled).greedy
    if type(rule) is Coupled and not rule.sampling.truncates and rule.noise.device.type == "cpu":
        known, noise = _CompiledTable.of(table, compiled), rule.noise
        divisor = rule.sampling.divisor

        def picked(previous: int, last: int, suffix: Suffix, position: int) -> CompiledPick:
            (row,) = noise.rows(range(position, position + 1))
            return known.pick(previous, last, suffix, divisor, row.data_ptr())

        return picked
    return None


class _Table(ctypes.Structure):
    _fields_ = [
        ("starts", _Pointer),
        ("spans", _Pointer),
        ("before", _Pointer),
        ("tokens", _Pointer),
        ("log_probs", _Pointer),
        ("repetition", _Pointer),
        ("repetitions", _Integer),
        ("vocabulary", _Integer),
        ("sharpness", ctypes.c_float),
    ]


class _Pick(ctypes.Structure):
    _fields_ = [
        ("token", _Integer),
        *(
            (name, ctypes.c_double)
            for name in (
                "log_prob",
                "entropy",
                "margin",
                "choice_margin",
                "choice_margin_without_noise",
            )
        ),
    ]


class _CompiledTable:
    """A table's arrays as compiled code reads them. Its structures mirror `trigrams.cpp`."""

    _known: "WeakKeyDictionary[TrigramTable, _CompiledTable]" = WeakKeyDictionary()

    @classmethod
    def of(cls, table: TrigramTable, compiled: ctypes.CDLL) -> "_CompiledTable":
        """Made once for each table."""
        found = cls._known.get(table)
        if found is None:
            found = cls._known[table] = cls(table, compiled)
        return found

    def __init__(self, table: TrigramTable, compiled: ctypes.CDLL) -> None:
        arrays = table.flat()
        self._kept = arrays  # alive as long as the pointers
        self._table = _Table(
            *(values.ctypes.data for values in arrays),
            len(table.arrays["repetition"]),
            table.vocab_size,
            float(table.arrays["sharpness"][0]),
        )
        self._pick = compiled.table_pick
        integers = [_Integer] * 4
        self._pick.argtypes = [
            _Pointer,
            *integers,
            ctypes.c_float,
            _Pointer,
            ctypes.c_float,
            _Pointer,
        ]
        self._pick.restype = None
        self._address = ctypes.addressof(self._table)

    def pick(
        self, previous: int, last: int, suffix: Suffix, temperature: float, noise: int | None
    ) -> CompiledPick:
        """The pick after `previous, last`; `noise` is the address of its position's, if any."""
        guess = -1 if suffix.guess is None else suffix.guess
        found = _Pick()  # of this call alone: several threads may share a table
        text = previous, last, guess, suffix.match
        out = ctypes.addressof(found)
        self._pick(self._address, *text, temperature, noise, LARGEST_MARGIN, out)
        return CompiledPick(
            found.token,
            found.log_prob,
            found.entropy,
            found.margin,
            found.choice_margin,
            found.choice_margin_without_noise,
        )

    def greedy(self, previous: int, last: int, suffix: Suffix, position: int) -> CompiledPick:
        """The most probable token."""
        return self.pick(previous, last, suffix, 1.0, None)
