"""The text of a session, shared by everything that reads or extends it."""

from collections.abc import Iterable

import torch

from adaspec_rl.decoding.compiled_automaton import Automaton, suffix_automaton


class TokenSequence:
    """One text: its tokens on the host and on the device, and its suffix automaton.

    Attributes:
        tokens: all committed tokens, prompt included.
        buffer: `[room]` int64 on the device; begins with `tokens`. What follows them is scratch.
        features: `[room, hidden]` float32 on the device: for each token, the target's normalised
            hidden state at the token before it, zeros for the first one; None if no drafter reads
            it.
    """

    def __init__(
        self,
        tokens: Iterable[int],
        device: torch.device,
        room: int | None = None,
        *,
        hidden_size: int | None = None,
    ) -> None:
        """Begin with `tokens`.

        Args:
            room: the most tokens that the text may grow to; None: it does not grow.
            hidden_size: the target's, if a drafter reads its hidden states.
        """
        self.tokens: list[int] = []
        given = list(tokens)
        room = room or len(given)
        self.buffer = torch.empty(room, dtype=torch.long, device=device)
        self.features: torch.Tensor | None = None
        if hidden_size is not None:
            self.features = torch.zeros(room, hidden_size, device=device)
        self._automaton: Automaton | None = None
        self.extend(given)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def on_device(self) -> torch.Tensor:
        """The committed tokens, `[n]`."""
        return self.buffer[: len(self.tokens)]

    @property
    def automaton(self) -> Automaton:
        """The suffix automaton of all committed tokens; built on first use."""
        if self._automaton is None:
            self._automaton = suffix_automaton(self.tokens)
        return self._automaton

    def know(self, position: int, hidden: torch.Tensor) -> None:
        """Keep the target's hidden states `[w, hidden]` from `position` on."""
        assert self.features is not None
        first = position + 1  # a state is kept with the token after its own
        last = min(first + len(hidden), len(self.features))  # nobody reads it at the text's end
        self.features[first:last] = hidden[: last - first]

    def extend(self, tokens: list[int], there: int = 0) -> None:
        """Commit `tokens`, of which the first `there` stand in the buffer already."""
        new, n = tokens[there:], len(self.tokens) + there
        if self.buffer.device.type == "cpu":
            self.buffer.numpy()[n : n + len(new)] = new  # takes a fraction of the time
        elif len(new) == 1:
            self.buffer[n] = new[0]  # takes a quarter of the time
        else:
            self.buffer[n : n + len(new)].copy_(torch.tensor(new), non_blocking=True)
        self.tokens += tokens
        if self._automaton is not None:
            self._automaton.extend(tokens)
