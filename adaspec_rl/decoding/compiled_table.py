"""A trigram table's picks in compiled code, which takes a fraction of the time."""

import ctypes
import functools
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from adaspec_rl.decoding.compiled_automaton import CompiledAutomaton, CompiledSuffix, TextEnd
from adaspec_rl.decoding.compiled_survival import CompiledHead
from adaspec_rl.decoding.noise import GumbelNoise, noise_table
from adaspec_rl.decoding.picks import LARGEST_MARGIN
from adaspec_rl.decoding.trigrams import TrigramTable
from adaspec_rl.decoding.verification import Coupled, Greedy, Verification
from adaspec_rl.engine.cpu.build import loaded

_Pointer, _Integer, _Real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double


class CompiledPick(ctypes.Structure):
    """What is known about a pick, see `Pick`. Its structure mirrors `trigrams.cpp`."""

    _fields_ = [
        ("token", _Integer),
        ("own_log_prob", _Real),
        ("entropy", _Real),
        ("margin", _Real),  # of the table's first choice over the second
        ("choice_margin", _Real),
        ("choice_margin_without_noise", _Real),
    ]
    token: int
    entropy: float

    def weighed(self) -> tuple[int, float]:
        return self.token, self.choice_margin

    def log_prob(self) -> float:
        found: float = self.own_log_prob
        return found

    def signals(self, noise: bool = True) -> tuple[float, float, float, float]:
        choice = self.choice_margin if noise else self.choice_margin_without_noise
        return self.own_log_prob, self.entropy, self.margin, choice


def compiled_picker(table: TrigramTable, rule: Verification) -> "CompiledPicker | None":
    """Picks as `rule` does, or None if there is no compiled code for that.

    There is if temperature and noise alone decide, and models of this process run compiled.
    """
    compiled = loaded()
    if compiled is None:
        return None
    if type(rule) is Greedy:
        return CompiledPicker(_CompiledTable.of(table, compiled))
    if type(rule) is Coupled and not rule.sampling.truncates and rule.noise.device.type == "cpu":
        known = _CompiledTable.of(table, compiled)
        return CompiledPicker(known, rule.sampling.divisor, rule.noise)
    return None


class CompiledPicker:
    """Picks from a table: the most probable tokens, or with noise at a temperature."""

    def __init__(
        self, table: "_CompiledTable", divisor: float = 1.0, noise: GumbelNoise | None = None
    ) -> None:
        self._table = table
        self._chance = _Chance(divisor)
        if noise is not None:
            seed = noise.seed & 0xFFFFFFFFFFFFFFFF
            self._chance = _Chance(divisor, seed, *_addresses_of_noise_table())

    def __call__(self, previous: int, last: int, suffix: TextEnd, position: int) -> CompiledPick:
        """The pick at `position`, after `previous, last`, with which the text's end ends."""
        guess = -1 if suffix.guess is None else suffix.guess
        found = CompiledPick()  # of this call alone: several threads may share a table
        self._table.pick(
            self._table.address,
            *(previous, last, guess, suffix.match),
            *(ctypes.byref(self._chance), position, LARGEST_MARGIN, ctypes.byref(found)),
        )
        return found

    def chances(
        self,
        text: CompiledAutomaton,
        suffix: CompiledSuffix,
        before: tuple[int, int],
        head: CompiledHead,
        length: int,
        least: float,
    ) -> tuple[Sequence[CompiledPick], list[float]]:
        """Picks after `text`, and their chances; see `TableDrafter.chances`.

        `before` are its last two tokens. `suffix` is then the text's end and all picks but the
        last one.
        """
        picks, chances = (CompiledPick * length)(), (_Real * length)()
        count = self._table.chances(
            *(self._table.address, text.address, ctypes.byref(suffix), *before),
            *(ctypes.byref(self._chance), len(text), LARGEST_MARGIN, head.address),
            *(length, least, picks, chances),
        )
        return picks[:count], chances[:count]


class _Chance(ctypes.Structure):
    """Temperature and noise. Its structure mirrors `trigrams.cpp`."""

    _fields_ = [
        ("temperature", ctypes.c_float),
        ("seed", ctypes.c_uint64),
        ("values", _Pointer),  # None: no noise
        ("slopes", _Pointer),
    ]


@functools.cache
def _addresses_of_noise_table() -> tuple[int, int]:
    values, slopes = noise_table()
    return values.ctypes.data, slopes.ctypes.data


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


class _CompiledTable:
    """A table's arrays as compiled code reads them. Its structure mirrors `trigrams.cpp`."""

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
        self.address = ctypes.addressof(self._table)
        chance = _Pointer, _Integer, ctypes.c_float  # with the position and the largest margin
        self.pick = compiled.table_pick
        self.pick.argtypes = [_Pointer, *[_Integer] * 4, *chance, _Pointer]
        self.pick.restype = None
        self.chances = compiled.table_chances
        self.chances.argtypes = [
            *([_Pointer] * 3 + [_Integer] * 2),
            *chance,
            *(_Pointer, _Integer, _Real, _Pointer, _Pointer),
        ]
        self.chances.restype = _Integer
