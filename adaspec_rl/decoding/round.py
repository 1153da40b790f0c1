"""What goes into one round of speculation, and what comes out."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Action:
    """Draft up to `length` tokens with drafter number `drafter`; 0 tokens is the fallback.

    Drafting stops early after a token at which the estimated chance that everything drafted so far
    survives falls under `threshold` (0 = never).
    """

    length: int
    drafter: int = 0
    threshold: float = 0.0

    def __post_init__(self) -> None:
        if self.length < 0:
            raise ValueError(f"draft length must be at least 0, got {self.length}")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], got {self.threshold}")


FALLBACK = Action(length=0)


@dataclass(frozen=True, slots=True)
class Round:
    """What one round did. It emits `accepted + 1` tokens, or fewer where the text ends.

    The signals after `seconds` are empty where the session was started without them.
    """

    drafter: int
    drafted: int
    accepted: int
    tokens: tuple[int, ...]  # emitted: the accepted draft, then a correction or the bonus token
    seconds: float
    draft_log_probs: tuple[float, ...] = ()  # of each drafted token, by the drafter
    draft_entropies: tuple[float, ...] = ()  # nats, of the drafter at each drafted token
    draft_margins: tuple[float, ...] = ()  # log-probability gap between its first and second choice
    draft_choice_margins: tuple[float, ...] = ()  # likewise, tempered and with coupling's noise
    draft_survivals: tuple[float, ...] = ()  # estimated chance that all up to this token survive
    target_entropy: float = 0.0  # nats, at the last verified position
    target_top_probability: float = 0.0  # likewise

    @property
    def reached(self) -> int:
        """Drafted positions that verification looked at: up to the first rejection, included."""
        return min(self.accepted + 1, self.drafted)
