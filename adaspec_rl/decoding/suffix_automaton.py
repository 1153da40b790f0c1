"""Finds where the end of a text occurred before and what followed: a free guess.

It is a suffix automaton (Blumer et al. 1985, doi:10.1016/0304-3975(85)90157-4), grown token by
token. Each state stands for all runs of tokens that end at the same places in the text. A state's
link leads to the longest suffix of its runs that also occurs elsewhere.
"""

from collections.abc import Iterable, MutableSequence, Sequence

RECENT = 32  # suffixes of the text, the longest first, whose latest occurrence is kept up to date


class SuffixAutomaton:
    """All runs of tokens in a text; appending a token takes a few microseconds at any length."""

    def __init__(self, text: Iterable[int] = ()) -> None:
        self.start(text)

    def start(self, text: Iterable[int]) -> None:
        """Begin with another text."""
        self.tokens: list[int] = []
        self._next: list[dict[int, int]] = [{}]  # by state: what may follow, and where it leads
        self._link = [-1]
        self._length = [0]  # of the state's longest run
        self._stop = [0]  # tokens up to the end of an occurrence, as a rule the latest one
        self._last = 0  # the state of the whole text
        self.extend(text)

    def __len__(self) -> int:
        return len(self.tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Append `tokens`."""
        for token in tokens:
            self.append(token)

    def follow(
        self, tokens: Iterable[int], rates: MutableSequence[float], decays: Sequence[float]
    ) -> int:
        """Append `tokens`, and update averages of how often the guess was right.

        Each token moves every one of `rates` towards 1 if it was the guess, and else towards 0:
        what is left of the distance is the share given by `decays`. Returns the new `match`.
        """
        for token in tokens:
            hit = float(self.suffix().guess == token)
            for n, decay in enumerate(decays):
                rates[n] = hit + (rates[n] - hit) * decay
            self.append(token)
        return self.match

    def append(self, token: int) -> None:
        """Append one token."""
        self._keep_up()
        self.tokens.append(token)
        self._grow(token)

    def _keep_up(self) -> None:
        """Note that the text's suffixes also occur here; done late, once a token follows."""
        link, stop, here = self._link, self._stop, len(self.tokens)
        state = link[self._last]
        for _ in range(RECENT):
            if state <= 0:
                break
            stop[state] = here
            state = link[state]

    def _grow(self, token: int) -> None:
        following, link, length = self._next, self._link, self._length
        state, new = self._last, self._new({}, length[self._last] + 1, len(self.tokens))
        while state >= 0 and token not in following[state]:
            following[state][token] = new
            state = link[state]
        self._last = new
        if state < 0:
            return
        known = following[state][token]
        if length[known] == length[state] + 1:
            link[new] = known
            return
        # Some of the runs that end where `known` does now also end here: they need their own state.
        shorter = self._new(dict(following[known]), length[state] + 1, self._stop[known])
        link[shorter] = link[known]
        link[known] = link[new] = shorter
        while state >= 0 and following[state].get(token) == known:
            following[state][token] = shorter
            state = link[state]

    def _new(self, following: dict[int, int], length: int, stop: int) -> int:
        self._next.append(following)
        self._link.append(0)
        self._length.append(length)
        self._stop.append(stop)
        return len(self._link) - 1

    @property
    def match(self) -> int:
        """Tokens in the longest suffix of the text that occurred earlier."""
        return self._length[max(0, self._link[self._last])]

    def suffix(self) -> "Suffix":
        """The text's end, to which drafted tokens may be appended."""
        return Suffix(self)


class Suffix:
    """The end of a text and its draft; earlier occurrences are looked for in the text alone.

    Attributes:
        match: tokens in the longest suffix that occurs in the text with a token after it.
        guess: that next token, usually of the latest occurrence; None: there is no match.
    """

    __slots__ = ("_state", "_text", "guess", "match")
    match: int
    guess: int | None

    def __init__(self, text: SuffixAutomaton) -> None:
        self._text = text
        self._state = max(0, text._link[text._last])
        self.match = text._length[self._state]
        self._look()

    def append(self, token: int) -> None:
        """Append a drafted token."""
        text, state = self._text, self._state
        following, link = text._next, text._link
        if token not in following[state]:
            state = link[state]
            while state >= 0 and token not in following[state]:
                state = link[state]
            if state < 0:
                self._state, self.match, self.guess = 0, 0, None
                return
            self.match = text._length[state]
        self._state = following[state][token]
        self.match += 1
        self._look()

    def _look(self) -> None:
        text, state = self._text, self._state
        while state and text._stop[state] == len(text.tokens):  # the end itself: nothing follows
            state = text._link[state]
            self.match = text._length[state]
        self._state = state
        self.guess = text.tokens[text._stop[state]] if state else None
