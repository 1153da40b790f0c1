"""The text that a session writes, where everybody finds it."""

from collections.abc import Iterable

import torch

from adaspec_rl.decoding.suffix_automaton import SuffixAutomaton


class TokenSequence:
    """One text: its tokens on the host and on the device, and its suffix automaton.

    Attributes:
        tokens: all committed tokens, prompt included.
        buffer: `[room]` int64 on the device; begins with `tokens`. What follows them is scratch.
    """

    def __init__(
        self, tokens: Iterable[int], device: torch.device, room: int | None = None
    ) -> None:
        """`room`: tokens that the text may have in the end; None: it stays as it is."""
        self.tokens: list[int] = []
        given = list(tokens)
        self.buffer = torch.empty(room or len(given), dtype=torch.long, device=device)
        self._automaton: SuffixAutomaton | None = None
        self.extend(given)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def on_device(self) -> torch.Tensor:
        """The committed tokens, `[n]`."""
        return self.buffer[: len(self.tokens)]

    @property
    def automaton(self) -> SuffixAutomaton:
        """Of all committed tokens; made when it is first asked for."""
        if self._automaton is None:
            self._automaton = SuffixAutomaton(self.tokens)
        return self._automaton

    def extend(self, tokens: list[int], there: int = 0) -> None:
        """Commit `tokens`, of which the first `there` stand in the buffer already."""
        new, n = tokens[there:], len(self.tokens) + there
        if len(new) == 1:
            self.buffer[n] = new[0]  # takes a quarter of the time
        else:
            self.buffer[n : n + len(new)].copy_(torch.tensor(new), non_blocking=True)
        self.tokens += tokens
        if self._automaton is not None:
            self._automaton.extend(tokens)
