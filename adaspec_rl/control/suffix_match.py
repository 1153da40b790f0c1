"""How much of the text's end has been seen before: a free hint that the text repeats itself."""

from collections.abc import Iterable


class SuffixMatch:
    """Length of the longest earlier occurrence of the current suffix, up to `limit` tokens.

    Remembers every run of 1 to `limit` tokens; a token costs O(limit).
    """

    def __init__(self, limit: int = 8) -> None:
        self.limit = limit
        self.start([])

    def start(self, prompt: Iterable[int]) -> int:
        """Begin a new text; returns the match length at the end of `prompt`."""
        self._seen: set[tuple[int, ...]] = set()
        self._recent: tuple[int, ...] = ()
        self.length = 0
        return self.extend(prompt)

    def extend(self, tokens: Iterable[int]) -> int:
        """Append `tokens`; returns the match length at the new end."""
        for token in tokens:
            self._recent = (*self._recent, token)[-self.limit :]
            # A suffix matches at most one token longer than the one before it.
            longest = min(self.length + 1, len(self._recent))
            while longest and self._recent[-longest:] not in self._seen:
                longest -= 1
            self.length = longest
            for size in range(1, len(self._recent) + 1):
                self._seen.add(self._recent[-size:])
        return self.length
