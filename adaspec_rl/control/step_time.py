"""How long an autoregressive step takes now, as far as a guard's rounds show."""

from collections import deque

ENOUGH = 2  # plain steps without which nothing can be compared
REMEMBERED = 5  # latest plain steps that are kept; their median counts
QUICKER = 0.75  # of a remembered step: how fast a step in a new sequence may turn out to be
NOISE = 2.0  # the most steps that one round can lose: the rest is noise


class StepTime:
    """The median of the latest plain steps, or the very last step if it was quicker.

    Steps may be quicker in a new sequence, as the last one may have ended with a long context.
    Until the sequence has had a plain step of its own, its rounds are therefore also compared with
    quicker steps: `lead` is what they have won against these.
    """

    def __init__(self, refresh: int) -> None:
        self.refresh = refresh  # tokens without a plain step after which one is needed
        self.lead: float | None = None  # steps; None: this sequence has had a plain step
        self.tokens = 0  # since the last plain step
        self._plain: deque[float] = deque(maxlen=REMEMBERED)  # seconds

    def begin(self) -> None:
        """A sequence begins. If steps are quicker, it may lose as much as one round can."""
        self.lead = NOISE

    def unknown(self, trusted: bool) -> bool:
        """Whether a plain step is needed before the next draft; trust avoids some."""
        doubted = self.lead is not None and (not trusted or self.lead < 0)
        return doubted or self.tokens >= self.refresh or len(self._plain) < ENOUGH

    def expire(self) -> None:
        """Need a plain step before the next draft."""
        self.tokens = self.refresh

    def add(self, seconds: float) -> None:
        """A plain step was taken."""
        self._plain.append(seconds)
        self.tokens, self.lead = 0, None

    @property
    def seconds(self) -> float:
        """Of a plain step; there must have been one."""
        return min(sorted(self._plain)[(len(self._plain) - 1) // 2], self._plain[-1])

    def gain(self, emitted: int, seconds: float, highest: float) -> float:
        """Steps won by a round with a draft; `lead` stays at or below `highest`."""
        self.tokens += emitted
        spent = seconds / self.seconds
        if self.lead is not None:
            self.lead = min(self.lead + max(emitted - spent / QUICKER, -NOISE), highest)
        return max(emitted - spent, -NOISE)
