"""What followed the text's end the last time it occurred: a free guess at what comes next."""

from collections.abc import Iterable, Sequence


class SuffixIndex:
    """Remembers what followed every run of 1 to `limit` tokens; a token costs O(limit).

    Attributes:
        match: tokens in the longest suffix of the text that occurred earlier, up to `limit`.
    """

    def __init__(self, limit: int = 8) -> None:
        self.limit = limit
        self.start(())

    def start(self, text: Iterable[int]) -> None:
        """Begin with another text."""
        self._next: dict[tuple[int, ...], int] = {}
        self._end: tuple[int, ...] = ()
        self.match = 0
        self.extend(text)

    def extend(self, tokens: Iterable[int]) -> None:
        """Append `tokens`."""
        for token in tokens:
            end, following = self._end, self._next
            for size in range(1, len(end) + 1):
                following[end[-size:]] = token
            self._end = (*end, token)[-self.limit :]
            # A suffix matches at most one token longer than the one before it.
            self.match = self._longest(self._end, self.match + 1)

    def predict(self, drafted: Sequence[int] = ()) -> tuple[int, int | None]:
        """Match length and following token, as if `drafted` had been appended.

        Earlier occurrences are looked for in the text alone, not in `drafted`.
        """
        end = (*self._end, *drafted)[-self.limit :]
        match = self._longest(end, self.match + len(drafted))
        return match, self._next[end[-match:]] if match else None

    def _longest(self, end: tuple[int, ...], limit: int) -> int:
        match = min(limit, len(end))
        while match and end[-match:] not in self._next:
            match -= 1
        return match
