"""What a policy sees: one definition, computed from rounds, in batch form.

Training (hundreds of streams) and decoding (one) run this very code. Features come in groups that
can be switched off; each is divided by its scale, so that values lie near 0 to 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from adaspec_rl.decoding.round import Round

GROUPS = ("history", "target", "draft", "context", "cost")
EMA_SPANS = (2.0, 6.0, 20.0)  # rounds
RECENT = 4  # rounds shown one by one
PRIOR_ACCEPTANCE = 0.5  # what the averages start from
MATCH_LIMIT = 8  # tokens; a longer match of the current suffix counts as this


@dataclass(frozen=True, slots=True)
class CostFeatures:
    """A cost profile as a policy sees it, in units of one autoregressive step."""

    draft_step: float
    verification_step: float  # of one more verified position
    overhead: float  # of a round
    batch_size: int = 1


@dataclass(frozen=True, slots=True)
class ObservationSpec:
    """Which features, in which order, at which scale. Travels with the policy."""

    groups: tuple[str, ...] = GROUPS
    max_length: int = 8
    vocab_size: int = 4096
    names: tuple[str, ...] = field(init=False)
    scales: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        unknown = [group for group in self.groups if group not in GROUPS]
        if unknown:
            raise ValueError(
                f"unknown feature group {unknown[0]!r}: expected some of {', '.join(GROUPS)}"
            )
        if not self.groups:
            raise ValueError(f"no feature group chosen: expected some of {', '.join(GROUPS)}")
        table = _features(self.max_length, self.vocab_size)
        chosen = [item for group in GROUPS if group in self.groups for item in table[group]]
        object.__setattr__(self, "names", tuple(name for name, _ in chosen))
        object.__setattr__(self, "scales", tuple(scale for _, scale in chosen))

    def __len__(self) -> int:
        return len(self.names)


def _features(max_length: int, vocab_size: int) -> dict[str, list[tuple[str, float]]]:
    """`(name, scale)` of every feature, by group; `Observer._columns` fills them in this order."""
    span, surprise = float(max_length), math.log(vocab_size)
    recent = range(1, RECENT + 1)
    return {
        "history": [
            *((f"acceptance_ema_{span:g}", 1.0) for span in EMA_SPANS),
            *((f"accepted_{ago}_ago", span) for ago in recent),
            *((f"drafted_{ago}_ago", span) for ago in recent),
            ("rounds_since_draft", 8.0),
        ],
        "target": [("target_entropy", surprise), ("target_top_probability", 1.0)],
        "draft": [
            ("draft_first_probability", 1.0),
            ("draft_survival", 1.0),
            ("draft_last_probability", 1.0),
            ("draft_last_entropy", surprise),
            ("draft_last_margin", 10.0),
        ],
        "context": [("generated", math.log1p(1024)), ("suffix_match", float(MATCH_LIMIT))],
        "cost": [
            ("draft_step", 1.0),
            ("verification_step", 1.0),
            ("overhead", 1.0),
            ("batch_size", 6.0),
        ],
    }


@dataclass(slots=True)
class RoundArrays:
    """The rounds of `[B]` streams side by side, as far as observations need them."""

    drafted: np.ndarray
    accepted: np.ndarray
    emitted: np.ndarray
    target_entropy: np.ndarray
    target_top_probability: np.ndarray
    draft_first_probability: np.ndarray  # of the first drafted token, by the drafter
    draft_survival: np.ndarray  # product of the drafter's probabilities
    draft_last_probability: np.ndarray
    draft_last_entropy: np.ndarray
    draft_last_margin: np.ndarray
    suffix_match: np.ndarray  # length of the longest earlier match of the suffix, after the round

    @classmethod
    def from_rounds(cls, rounds: Sequence[Round], suffix_match: Sequence[int]) -> "RoundArrays":
        rows = [(*_numbers(round_), match) for round_, match in zip(rounds, suffix_match)]
        return cls(*np.array(rows, dtype=np.float64).T)


def _numbers(r: Round) -> tuple[float, ...]:
    head = (r.drafted, r.accepted, len(r.tokens), r.target_entropy, r.target_top_probability)
    if not r.draft_log_probs:
        return (*head, 0.0, 0.0, 0.0, 0.0, 0.0)
    return (
        *head,
        math.exp(r.draft_log_probs[0]),
        math.exp(sum(r.draft_log_probs)),
        math.exp(r.draft_log_probs[-1]),
        r.draft_entropies[-1],
        min(r.draft_margins[-1], 100.0),
    )


class Observer:
    """Turns the rounds of `batch` streams into observations."""

    def __init__(self, spec: ObservationSpec, cost: CostFeatures, batch: int = 1) -> None:
        self.spec = spec
        self.batch = batch
        self._scales = np.asarray(spec.scales, dtype=np.float32)
        self._decay = np.exp(-1.0 / np.asarray(EMA_SPANS))
        batch_size = math.log2(cost.batch_size)
        self._cost = np.array(
            [cost.draft_step, cost.verification_step, cost.overhead, batch_size], dtype=np.float32
        )
        self._values = {
            group: np.zeros((batch, len(items)), dtype=np.float32)
            for group, items in _features(spec.max_length, spec.vocab_size).items()
        }
        self._generated = np.zeros(batch)
        self.reset()

    def reset(self, rows: np.ndarray | slice = slice(None), suffix_match: float = 0.0) -> None:
        """Begin new sequences in `rows` (all by default)."""
        self._generated[rows] = 0
        for group, values in self._values.items():
            values[rows] = self._cost if group == "cost" else 0.0
        self._values["history"][rows, : len(EMA_SPANS)] = PRIOR_ACCEPTANCE
        self._values["context"][rows, 1] = np.minimum(suffix_match, MATCH_LIMIT)

    def update(self, rounds: RoundArrays) -> None:
        """Take in one round of every stream."""
        drafting = rounds.drafted > 0
        history, emas = self._values["history"], len(EMA_SPANS)
        reached = np.minimum(rounds.accepted + 1, rounds.drafted)
        rate = rounds.accepted / np.maximum(reached, 1)
        moved = rate[:, None] + (history[:, :emas] - rate[:, None]) * self._decay
        history[:, :emas] = np.where(drafting[:, None], moved, history[:, :emas])
        for first, newest in ((emas, rounds.accepted), (emas + RECENT, rounds.drafted)):
            history[:, first + 1 : first + RECENT] = history[:, first : first + RECENT - 1].copy()
            history[:, first] = newest
        history[:, -1] = np.where(drafting, 0, np.minimum(history[:, -1] + 1, 8))
        self._values["target"][:, 0] = rounds.target_entropy
        self._values["target"][:, 1] = rounds.target_top_probability
        draft = self._values["draft"]
        for column, values in enumerate(
            (
                rounds.draft_first_probability,
                rounds.draft_survival,
                rounds.draft_last_probability,
                rounds.draft_last_entropy,
                rounds.draft_last_margin,
            )
        ):
            draft[:, column] = np.where(drafting, values, draft[:, column])
        self._generated += rounds.emitted
        self._values["context"][:, 0] = np.log1p(self._generated)
        self._values["context"][:, 1] = np.minimum(rounds.suffix_match, MATCH_LIMIT)

    def observation(self) -> np.ndarray:
        """`[batch, features]` float32, a fresh array."""
        chosen = [self._values[group] for group in GROUPS if group in self.spec.groups]
        return np.concatenate(chosen, axis=1) / self._scales
