"""What a policy observes: one definition, computed from rounds, for a batch of streams.

Training and batches run `Observer`, a single text `StreamObserver`, which a test holds to the same
numbers. Features come in groups that can be switched off. Each feature is divided by its scale, so
that values lie near 0 to 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from adaspec_rl.control.text_features import TEXT_FEATURES
from adaspec_rl.decoding.forecast import NO_FORECAST, Forecast
from adaspec_rl.decoding.round import Round

GROUPS = ("history", "drafters", "target", "draft", "context", "lookup", "cost")
SIGNALLED = ("target", "draft")  # groups that need a session's signals, which take time
EMA_SPANS = (2.0, 6.0, 20.0)  # rounds
DRAFTER_SPAN = 6.0  # rounds with a drafter, of its own acceptance average
RECENT = 4  # rounds shown one by one
EMA_DECAYS = np.exp(-1.0 / np.asarray(EMA_SPANS, dtype=np.float32))  # a round
DRAFTER_DECAY = math.exp(-1.0 / DRAFTER_SPAN)
PRIOR_ACCEPTANCE = 0.5  # what the averages start from


@dataclass(frozen=True, slots=True)
class CostFeatures:
    """A cost profile as a policy sees it, in units of one autoregressive step."""

    draft_step: float
    verification_step: float  # of one more verified position
    overhead: float  # of a round
    batch_size: int = 1
    other_draft_steps: tuple[float, ...] = ()  # of the second drafter, the third, …
    # Of one more node in a token tree: its verification, then its drafting by each drafter.
    trees: tuple[float, ...] = ()

    def values(self) -> np.ndarray:
        """The features of the group `cost`, unscaled, `[3 + drafters]`, and those of trees."""
        size = math.log2(self.batch_size)
        first = (self.draft_step, self.verification_step, self.overhead, size)
        return np.array([*first, *self.other_draft_steps, *self.trees])


@dataclass(frozen=True, slots=True)
class ObservationSpec:
    """Which features are observed, in which order, at which scale. It travels with the policy."""

    groups: tuple[str, ...] = GROUPS
    max_length: int = 8
    vocab_size: int = 4096
    drafters: int = 1
    trees: bool = False  # whether actions branch; the cost of branching is in the group `cost`
    tables: int = 0  # of the drafters, whose forecasts are in the group `lookup`
    names: tuple[str, ...] = field(init=False)
    scales: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        unknown = [group for group in self.groups if group not in GROUPS]
        if unknown:
            raise ValueError(
                f"unknown feature group {unknown[0]!r}: expected some of {', '.join(GROUPS)}"
            )
        twice = [group for group in self.groups if self.groups.count(group) > 1]
        if twice:
            raise ValueError(f"the feature group {twice[0]!r} is named twice: name each once")
        if not self.groups:
            raise ValueError(f"no feature group chosen: expected some of {', '.join(GROUPS)}")
        if self.drafters < 1:
            raise ValueError(f"at least 1 drafter is needed, got {self.drafters}")
        if self.max_length < 1 or self.vocab_size < 2:
            raise ValueError(
                "observations need a max_length of at least 1 and a vocab_size of at least 2, got "
                f"{self.max_length} and {self.vocab_size}"
            )
        table = self.table()
        chosen = [item for group in GROUPS if group in self.groups for item in table[group]]
        object.__setattr__(self, "names", tuple(name for name, _ in chosen))
        object.__setattr__(self, "scales", tuple(scale for _, scale in chosen))

    def __len__(self) -> int:
        return len(self.names)

    def table(self) -> dict[str, list[tuple[str, float]]]:
        """`(name, scale)` of every feature, by group, chosen or not."""
        return _features(self.max_length, self.vocab_size, self.drafters, self.trees, self.tables)

    @property
    def changes(self) -> bool:
        """Whether rounds change the observation at all."""
        return self.groups != ("cost",)

    @property
    def needs_forecast(self) -> bool:
        """Whether sessions must be asked for their forecasts."""
        return "lookup" in self.groups

    @property
    def needs_rounds(self) -> bool:
        """Whether the observation depends on more than the text and the costs."""
        return any(group not in ("context", "lookup", "cost") for group in self.groups)

    @property
    def needs_signals(self) -> bool:
        """Whether rounds must carry their signals."""
        return any(group in SIGNALLED for group in self.groups)


def _features(
    max_length: int, vocab_size: int, drafters: int, trees: bool, tables: int
) -> dict[str, list[tuple[str, float]]]:
    """`(name, scale)` of every feature, by group, in the order in which `Observer` fills them."""
    nodes = [("node_verification", 0.1), *((f"node_draft_{d}", 0.1) for d in range(drafters))]
    span, surprise = float(max_length), math.log(vocab_size)
    recent = range(1, RECENT + 1)
    return {
        "history": [
            *((f"acceptance_ema_{span:g}", 1.0) for span in EMA_SPANS),
            *((f"accepted_{ago}_ago", span) for ago in recent),
            *((f"drafted_{ago}_ago", span) for ago in recent),
            ("rounds_since_draft", 8.0),
        ],
        "drafters": [
            *((f"drafter_{d}_acceptance_ema", 1.0) for d in range(drafters)),
            *((f"drafter_{d}_unread", math.log1p(1024)) for d in range(drafters)),
        ],
        "target": [("target_entropy", surprise), ("target_top_probability", 1.0)],
        "draft": [
            ("draft_first_probability", 1.0),
            ("draft_survival", 1.0),
            ("draft_last_probability", 1.0),
            ("draft_last_entropy", surprise),
            ("draft_last_margin", 10.0),
        ],
        "context": list(TEXT_FEATURES),
        "lookup": [
            ("lookup_expected", 4.0),
            ("lookup_first", 1.0),
            *(
                item
                for n in range(tables)
                for item in ((f"table_{n}_expected", 4.0), (f"table_{n}_first", 1.0))
            ),
        ],
        "cost": [
            ("draft_step", 1.0),
            ("verification_step", 1.0),
            ("overhead", 1.0),
            ("batch_size", 6.0),
            *((f"draft_step_{d}", 1.0) for d in range(1, drafters)),
            *(nodes if trees else []),
        ],
    }


@dataclass(slots=True)
class RoundArrays:
    """The rounds of `B` streams side by side, as far as observations need them (float arrays)."""

    drafted: np.ndarray  # [B]
    accepted: np.ndarray  # [B]
    emitted: np.ndarray  # [B]
    reached: np.ndarray  # [B], see `Round.reached`
    target: np.ndarray  # [B, 2], the features of the group `target`, unscaled
    draft: np.ndarray  # [B, 5], likewise; ignored where nothing was drafted
    text: np.ndarray  # [B, 4], `TextFeatures.values` after the round
    drafter: np.ndarray  # [B] integers
    forecast: np.ndarray  # [B, 2 and more], the session's after the round

    @classmethod
    def from_rounds(
        cls,
        rounds: Sequence[Round],
        text: Sequence[Sequence[float]],
        forecast: Sequence[Forecast],
        signals: bool = True,
    ) -> "RoundArrays":
        """Rounds of several streams, and each stream's `TextFeatures.values` and forecast after.

        `signals=False` skips the groups `target` and `draft`, which are then 0.
        """
        if signals:
            table = np.array([_numbers(round_) for round_ in rounds])  # [B, 11]
        else:
            table = np.zeros((len(rounds), 11))
            for row, r in zip(table, rounds):
                row[:4] = r.drafted, r.accepted, len(r.tokens), r.reached
        return cls(
            drafted=table[:, 0],
            accepted=table[:, 1],
            emitted=table[:, 2],
            reached=table[:, 3],
            target=table[:, 4:6],
            draft=table[:, 6:],
            text=np.array(text),
            drafter=np.array([round_.drafter for round_ in rounds]),
            forecast=np.array(forecast),
        )


def _numbers(r: Round) -> tuple[float, ...]:
    played = (r.drafted, r.accepted, len(r.tokens), r.reached)
    return (*played, r.target_entropy, r.target_top_probability, *draft_numbers(r))


def draft_numbers(r: Round) -> tuple[float, ...]:
    """The features of the group `draft`, unscaled; zeros for a round without their signals."""
    if not r.draft_log_probs:
        return (0.0, 0.0, 0.0, 0.0, 0.0)
    return (
        math.exp(r.draft_log_probs[0]),
        r.draft_survivals[-1],
        math.exp(r.draft_log_probs[-1]),
        r.draft_entropies[-1],
        min(r.draft_margins[-1], 100.0),
    )


class Observer:
    """Turns the rounds of `batch` streams into observations."""

    def __init__(self, spec: ObservationSpec, cost: CostFeatures | None, batch: int = 1) -> None:
        """`cost` holds for all streams; None: `set_costs` sets the costs of each stream."""
        self.spec = spec
        self.batch = batch
        table = spec.table()
        every = [name for group in GROUPS for name, _ in table[group]]
        self._chosen = np.array([every.index(name) for name in spec.names])
        self._scales = np.asarray(spec.scales, dtype=np.float32)[:, None]
        self._decay = EMA_DECAYS[:, None]
        # All features, unscaled, one contiguous row each: [F, B].
        self._values = np.zeros((len(every), batch), dtype=np.float32)
        ends = np.cumsum([len(table[group]) for group in GROUPS])
        history, drafters, self._target, self._draft, self._text, self._lookup, self._costs = (
            self._values[end - len(table[group]) : end] for group, end in zip(GROUPS, ends)
        )
        emas = len(EMA_SPANS)
        self._emas = history[:emas]  # [spans, B]
        self._accepted = history[emas : emas + RECENT]  # [RECENT, B], the latest first
        self._drafted = history[emas + RECENT : -1]
        self._since_draft = history[-1]
        self._own_emas, self._log_unread = drafters[: spec.drafters], drafters[spec.drafters :]
        self._unread = np.zeros((spec.drafters, batch), dtype=np.float32)
        self._columns = np.arange(batch)
        if cost is not None:
            self.set_costs(cost.values())
        self.reset()

    def set_costs(self, values: np.ndarray, rows: np.ndarray | slice = slice(None)) -> None:
        """Set the costs of decoding in `rows`: `CostFeatures.values` `[C]` for all, or `[rows, C]`.

        Costs of drafters that the observation has no features for are left out.
        """
        known = min(values.shape[-1], len(self._costs))
        found = values[..., :known]
        self._costs[:known, rows] = found[:, None] if found.ndim == 1 else found.T

    def reset(
        self,
        rows: np.ndarray | slice = slice(None),
        text: np.ndarray | Sequence[float] = (0.0,) * len(TEXT_FEATURES),
        forecast: np.ndarray | Forecast = NO_FORECAST,
    ) -> None:
        """Begin new sequences in `rows` (all by default): texts `[rows, 4]`, forecasts.

        Texts are given by their `TextFeatures.values`, forecasts as `[rows, 2 and more]`; what is
        missing is 0. A single text or forecast applies to all rows.
        """
        self._values[: -len(self._costs), rows] = 0.0
        self._emas[:, rows] = PRIOR_ACCEPTANCE
        self._own_emas[:, rows] = PRIOR_ACCEPTANCE
        self._unread[:, rows] = 0.0
        self.read(text, forecast, rows)

    def update(self, rounds: RoundArrays) -> None:
        """Add one round of every stream. Groups that are not observed are not updated."""
        groups = self.spec.groups
        if "history" in groups or "draft" in groups or "drafters" in groups:
            drafting = rounds.drafted > 0
        if "history" in groups:
            self._update_history(rounds, drafting)
        if "drafters" in groups:
            self._update_drafters(rounds, drafting)
        if "target" in groups:
            self._target[:] = rounds.target.T
        if "draft" in groups:
            np.copyto(self._draft, rounds.draft.T, where=drafting)
        if "context" in groups or "lookup" in groups:
            self.read(rounds.text, rounds.forecast)

    def read(
        self,
        text: np.ndarray | Sequence[float],
        forecast: np.ndarray | Forecast,
        rows: np.ndarray | slice = slice(None),
    ) -> None:
        """Set the text features and forecasts, in the shapes that `reset` takes."""
        self._text.T[rows] = text
        found = np.asarray(forecast)[..., : len(self._lookup)]
        known = found.shape[-1]
        self._lookup[:known, rows] = found[:, None] if found.ndim == 1 else found.T
        self._lookup[known:, rows] = 0.0

    def _update_drafters(self, rounds: RoundArrays, drafting: np.ndarray) -> None:
        used = rounds.drafter, self._columns
        before = self._own_emas[used]
        rate = _acceptance_rate(rounds)
        mixed = rate + (before - rate) * DRAFTER_DECAY
        self._own_emas[used] = np.where(drafting, mixed, before)
        self._unread += rounds.emitted
        self._unread[used] = np.where(drafting, 0.0, self._unread[used])
        np.log1p(self._unread, out=self._log_unread)

    def _update_history(self, rounds: RoundArrays, drafting: np.ndarray) -> None:
        rate = _acceptance_rate(rounds)
        np.copyto(self._emas, rate + (self._emas - rate) * self._decay, where=drafting)
        for recent, latest in ((self._accepted, rounds.accepted), (self._drafted, rounds.drafted)):
            recent[1:] = recent[:-1]  # NumPy copies overlapping views first
            recent[0] = latest
        self._since_draft += 1
        np.minimum(self._since_draft, 8, out=self._since_draft)
        self._since_draft[drafting] = 0

    def observation(self, rows: np.ndarray | None = None) -> np.ndarray:
        """`[batch, features]` float32, a fresh array; with `rows`, theirs alone."""
        if rows is None:
            return (self._values[self._chosen] / self._scales).T
        return (self._values[self._chosen[:, None], rows] / self._scales).T


def _acceptance_rate(rounds: RoundArrays) -> np.ndarray:
    """Accepted tokens divided by the drafted tokens looked at, `[B]`; 0 without a draft."""
    return rounds.accepted / np.maximum(rounds.reached, 1)
