"""How long an autoregressive step takes now, as far as the rounds of a guard tell."""

from collections import deque

ENOUGH = 2  # plain steps, without which nothing can be compared
REMEMBERED = 5  # latest plain steps, whose median counts
QUICKER = 0.75  # of a remembered step: what one in a new sequence may take, as far as is known
NOISE = 2.0  # the most steps that one round can be said to lose: the rest is noise


class StepTime:
    """The median of the latest plain steps, or the very last one if that was quicker.

    In a new sequence steps may be quicker, as the last one may have ended with a long context. So
    until the sequence has a plain step of its own, its rounds are also compared with quicker steps:
    `lead` is what they have won against these.
    """

    def __init__(self, refresh: int) -> None:
        self.refresh = refresh  # tokens without a plain step after which one is needed
        self.lead: float | None = None  # steps; None: this sequence had a plain step
        self.tokens = 0  # since the last plain step
        self._plain: deque[float] = deque(maxlen=REMEMBERED)  # seconds

    def begin(self) -> None:
        """A sequence begins. It may lose what one round can, were steps quicker."""
        self.lead = NOISE

    def unknown(self, trusted: bool) -> bool:
        """Whether a plain step is needed before the next draft; trust spares some."""
        doubted = self.lead is not None and (not trusted or self.lead < 0)
        return doubted or self.tokens >= self.refresh or len(self._plain) < ENOUGH

    def expire(self) -> None:
        """Need a plain step before the next draft."""
        self.tokens = self.refresh

    def add(self, seconds: float) -> None:
        """A plain step was taken."""
        self._plain.append(seconds)
        self.tokens, self.lead = 0, None

    def gain(self, emitted: int, seconds: float, highest: float) -> float:
        """Steps that a round with a draft won; `lead` stays under `highest`."""
        self.tokens += emitted
        step = min(sorted(self._plain)[(len(self._plain) - 1) // 2], self._plain[-1])
        spent = seconds / step
        if self.lead is not None:
            self.lead = min(self.lead + max(emitted - spent / QUICKER, -NOISE), highest)
        return max(emitted - spent, -NOISE)
