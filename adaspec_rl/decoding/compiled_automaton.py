"""Suffix automata in compiled code, which takes a fraction of the time."""

import ctypes
import itertools
from array import array
from collections.abc import Iterable
from weakref import finalize

from adaspec_rl.decoding.suffix_automaton import Suffix, SuffixAutomaton
from adaspec_rl.engine.cpu.build import loaded

_Pointer, _Integer = ctypes.c_void_p, ctypes.c_int64


def suffix_automaton(tokens: Iterable[int] = ()) -> "Automaton":
    """An automaton of `tokens`; a compiled one if models of this process run compiled."""
    compiled = loaded()
    if compiled is None:
        return SuffixAutomaton(tokens)
    return CompiledAutomaton(compiled, tokens)


class CompiledAutomaton:
    """A `SuffixAutomaton` in compiled code.

    Attributes:
        tokens: the text.
        address: of the compiled automaton.
    """

    def __init__(self, compiled: ctypes.CDLL, tokens: Iterable[int] = ()) -> None:
        _declare(compiled)
        self._compiled = compiled
        self.tokens: list[int] = []
        self.address: int = compiled.text_new()
        finalize(self, compiled.text_free, self.address)
        self.extend(tokens)

    def __reduce__(self) -> tuple[object, ...]:
        return suffix_automaton, (self.tokens,)

    def __len__(self) -> int:
        return len(self.tokens)

    def append(self, token: int) -> None:
        """Append one token."""
        self.extend((token,))

    def extend(self, tokens: Iterable[int]) -> None:
        """Append `tokens`."""
        self.follow(tokens, _NOTHING, _NOTHING)

    def follow(self, tokens: Iterable[int], rates: "array[float]", decays: "array[float]") -> int:
        """See `SuffixAutomaton.follow`."""
        new = array("q", tokens)
        known = (part.buffer_info() for part in (new, rates, decays))
        match = self._compiled.text_follow(self.address, *itertools.chain.from_iterable(known))
        self.tokens += new
        return int(match)

    @property
    def match(self) -> int:
        """Tokens in the longest suffix of the text that occurred earlier."""
        return int(self._compiled.text_match(self.address))

    def lookup(
        self, length: int, head: int | None = None, least: float = 0.0
    ) -> "tuple[array[int], array[float]]":
        """What followed the longest suffix that occurred earlier, and the chance of each token.

        At most `length` tokens. The draft ends after the token at which the chance that all of it
        survives falls under `least`.

        Args:
            head: the address of a `CompiledHead`; None: there are no chances.
        """
        tokens, chances = array("q", bytes(8 * length)), array("d", bytes(8 * length))
        places = tokens.buffer_info()[0], chances.buffer_info()[0]
        given = self.address, head, self.tokens[-1], length, least
        count = self._compiled.lookup_draft(*given, *places)
        return tokens[:count], chances[: count if head else 0]

    def suffix(self) -> "CompiledSuffix":
        """The text's end, to which drafted tokens may be appended."""
        return CompiledSuffix(self)


class CompiledSuffix(ctypes.Structure):
    """A `Suffix` in compiled code. Its structure mirrors `suffix_automaton.h`."""

    _fields_ = [("state", _Integer), ("match", _Integer), ("following", _Integer)]
    match: int

    def __init__(self, text: CompiledAutomaton) -> None:
        self._text = text
        text._compiled.text_suffix(text.address, ctypes.byref(self))

    def __copy__(self) -> "CompiledSuffix":
        other = CompiledSuffix(self._text)
        other.state, other.match, other.following = self.state, self.match, self.following
        return other

    @property
    def guess(self) -> int | None:
        """The token that followed `match` earlier; None: there is no match."""
        found: int = self.following
        return None if found < 0 else found

    def append(self, token: int) -> None:
        """Append a drafted token."""
        self._text._compiled.suffix_append(self._text.address, ctypes.byref(self), token)


Automaton = SuffixAutomaton | CompiledAutomaton
TextEnd = Suffix | CompiledSuffix
_NOTHING = array("d")


def _declare(compiled: ctypes.CDLL) -> None:
    """Say which arguments the functions take."""
    if compiled.text_new.restype is _Pointer:
        return
    compiled.text_free.argtypes, compiled.text_free.restype = [_Pointer], None
    compiled.text_match.argtypes, compiled.text_match.restype = [_Pointer], _Integer
    compiled.text_follow.argtypes = [_Pointer] + [_Pointer, _Integer] * 3
    compiled.text_follow.restype = _Integer
    compiled.text_suffix.argtypes, compiled.text_suffix.restype = [_Pointer, _Pointer], None
    compiled.suffix_append.argtypes = [_Pointer, _Pointer, _Integer]
    compiled.suffix_append.restype = None
    compiled.lookup_draft.argtypes = [
        *([_Pointer] * 2 + [_Integer] * 2),
        *(ctypes.c_double, _Pointer, _Pointer),
    ]
    compiled.lookup_draft.restype = _Integer
    compiled.text_new.argtypes, compiled.text_new.restype = [], _Pointer
