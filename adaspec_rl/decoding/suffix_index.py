"""What followed the text's end the last time it occurred: a free guess at what comes next."""

from collections.abc import Iterable

SIZES = (8, 4, 2, 1)  # tokens in the ends that are looked for: half the work of trying all up to 8


class SuffixIndex:
    """Remembers what followed every run of 1, 2, 4 and 8 tokens."""

    def __init__(self) -> None:
        self.start(())

    def start(self, text: Iterable[int]) -> None:
        """Begin with another text."""
        self._next: dict[tuple[int, ...], int] = {}
        self._end: tuple[int, ...] = ()
        self.extend(text)

    def extend(self, tokens: Iterable[int]) -> None:
        """Append `tokens`."""
        end, following = self._end, self._next
        for token in tokens:
            for size in SIZES:
                if size <= len(end):
                    following[end[-size:]] = token
            end = (*end[1 - SIZES[0] :], token)
        self._end = end

    @property
    def match(self) -> int:
        """Tokens in the longest end that occurred earlier: 8, 4, 2, 1 or 0."""
        return self.suffix().match

    def suffix(self) -> "Suffix":
        """The text's end, to which drafted tokens may be appended."""
        return Suffix(self._next, self._end)


class Suffix:
    """The end of a text and its draft; earlier occurrences are looked for in the text alone.

    Attributes:
        match: tokens in the longest end that occurs in the text, followed by something.
        guess: what followed there the last time; None: there is no match.
    """

    __slots__ = ("_end", "_next", "guess", "match")
    match: int
    guess: int | None

    def __init__(self, following: dict[tuple[int, ...], int], end: tuple[int, ...]) -> None:
        self._next, self._end = following, end
        self._find()

    def append(self, token: int) -> None:
        """Draft `token`."""
        self._end = (*self._end[1 - SIZES[0] :], token)
        self._find()

    def _find(self) -> None:
        end, following = self._end, self._next
        for size in SIZES:
            if size <= len(end):
                guess = following.get(end[-size:])
                if guess is not None:
                    self.match, self.guess = size, guess
                    return
        self.match, self.guess = 0, None
