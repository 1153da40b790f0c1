"""A session that replays a trace: the same rounds as in decoding, for a table lookup each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adaspec_rl.costs.profile import CostProfile, RoundCosts, Unread
from adaspec_rl.costs.work import PLAIN_STEP, RoundWork
from adaspec_rl.decoding.forecast import NO_FORECAST, Forecast
from adaspec_rl.decoding.round import Action, DraftedToken, Round
from adaspec_rl.decoding.signals import SIGNALS
from adaspec_rl.recording.trace import DraftTable, Trace
from adaspec_rl.replay.branches import (
    drafted_shape,
    merged_rounds,
    merged_work,
    tree_rounds,
    tree_work,
)
from adaspec_rl.replay.outcomes import check_action, recorded_forecasts


class ReplaySession:
    """Plays recorded texts. `Round.seconds` comes from the cost profile."""

    def __init__(self, trace: Trace, profile: CostProfile, *, batch_size: int = 1) -> None:
        self.trace, self.profile, self.batch_size = trace, profile, batch_size
        self.drafters = [table.name for table in trace.drafters]
        self._numbers: dict[tuple[int, ...], dict[int, int]] = {}
        for number, text in enumerate(trace.texts):
            seeds = self._numbers.setdefault(tuple(text.prompt.tolist()), {})
            seeds.setdefault(text.seed, number)
        self._drafts = [_Drafts.of(table) for table in trace.drafters]
        self._forecasts = [tuple(found) for found in recorded_forecasts(trace).tolist()]
        self._unread = Unread(len(trace.drafters))
        self._known_costs: dict[int, RoundCosts] = {}
        self._finished: str | None = "length"
        self._made = 0

    @property
    def finished(self) -> str | None:
        return self._finished

    @property
    def tokens(self) -> list[int]:
        return list(self._tokens[: self._made])

    def start(self, prompt: Sequence[int], seed: int = 0, signals: bool = True) -> None:
        """Start a recorded text. An unknown seed stands for one that was recorded.

        Raises:
            ValueError: the prompt was not recorded.
        """
        seeds = self._numbers.get(tuple(prompt))
        if seeds is None:
            raise ValueError(
                f"the trace has no text after this prompt of {len(prompt)} tokens: record it first"
            )
        number = seeds.get(seed)
        if number is None:
            number = list(seeds.values())[seed % len(seeds)]
        self.number = number
        self._text = self.trace.texts[number]
        self._tokens = tuple(self._text.tokens.tolist())
        self._first = int(self.trace.starts[number])
        self._signals = signals
        self._made = 0
        self._unread.start(len(prompt))
        self._finished = None

    def step(self, action: Action) -> Round:
        """Play one round.

        Raises:
            ValueError: the generation is finished, or the action was not recorded.
        """
        if self._finished is not None:
            raise ValueError(f"the generation is finished ({self._finished}): call start() first")
        check_action(self.trace, action)
        text, made = self._text, self._made
        at = self._first + made
        costs = self._costs(len(text.prompt) + made)
        found = self._play(action, at, text.budget - made - 1)
        drafted, accepted = found.work.nodes, found.accepted
        emitted = self._tokens[made : made + accepted + 1]
        self._made += len(emitted)
        if self._made == len(self._tokens):
            self._finished = text.finished
        drafters = found.work.drafters
        unread = self._unread.played(drafters, len(emitted))
        reading = sum(costs.catch_up[d] * tokens for d, tokens in zip(drafters, unread))
        seconds = costs.of(found.work) + reading
        rejected: tuple[int, ...] = ()
        if accepted < drafted and not action.branches:
            tokens = self.trace.drafters[action.drafter].tokens[at, accepted:drafted]
            rejected = tuple(tokens.tolist())
        if not self._signals:
            return Round(
                action.drafter,
                drafted,
                accepted,
                emitted,
                seconds,
                rejected,
                at_leaf=found.at_leaf,
                levels=found.levels,
            )
        last = self._made - 1
        signals, survivals = np.zeros((len(SIGNALS), 0)), ()
        if first := found.first:
            table = self.trace.drafters[action.drafter]
            signals = table.signals[at, :first].T.astype(float)
            survivals = tuple(table.survival[at, :first].astype(float).tolist())
        log_probs, entropies, margins, choice_margins = (tuple(row.tolist()) for row in signals)
        return Round(
            drafter=action.drafter,
            drafted=drafted,
            accepted=accepted,
            tokens=emitted,
            seconds=seconds,
            rejected=rejected,
            draft_log_probs=log_probs,
            draft_entropies=entropies,
            draft_margins=margins,
            draft_choice_margins=choice_margins,
            draft_survivals=survivals,
            target_entropy=float(text.target_entropy[last]),
            target_top_probability=float(text.target_top_probability[last]),
            at_leaf=found.at_leaf,
            levels=found.levels,
        )

    def forecast(self, tables: bool = True) -> Forecast:
        if self._finished is not None:
            return NO_FORECAST
        return self._forecasts[self._first + self._made]

    def _play(self, action: Action, at: int, room: int) -> "_Played":
        """What `action` does at position `at` of the trace, with room for `room` tokens."""
        if not action.length:
            return _NOTHING
        if not action.branches:
            drafter = action.drafter
            drafted = self._drafted(action, drafter, at, room)
            if not drafted:
                return _NOTHING
            accepted = min(self._drafts[drafter].accepted[at], drafted)
            work = merged_work(action, (drafted,), drafted)
            return _Played(work, accepted, False, drafted)
        drafters = (action.drafter, *action.also)
        tables = [self.trace.drafters[drafter].select(np.array([at])) for drafter in drafters]
        if action.tree is not None:
            shape = drafted_shape(tables[0], action.tree)
            found = tree_rounds(tables[0], shape, np.array([room]))
            work = tree_work(action.drafter, shape, int(found.parts[0, 0]))
            levels = tuple(draft.levels for draft in work.drafts) or ((),)
        else:
            lengths = [self._drafted(action, drafter, at, room) for drafter in drafters]
            found = merged_rounds(tables, np.array(lengths)[:, None])
            work = merged_work(action, lengths, int(found.nodes[0]))
            levels = tuple((1,) * length for length in lengths)
        return _Played(
            work,
            int(found.accepted[0]),
            bool(found.at_leaf[0]),
            int(found.first[0]),
            levels,
        )

    def _drafted(self, action: Action, drafter: int, at: int, room: int) -> int:
        """Length of the chain that a drafter drafts for `action` at position `at` of the trace."""
        drafts = self._drafts[drafter]
        allowed = min(action.length, room, drafts.longest[at])
        if not action.stops:
            return allowed
        survival = drafts.survival[at]
        if action.rule is None:
            threshold = float(np.float32(action.threshold))
            for depth in range(allowed - 1):
                if survival[depth] < threshold:
                    return depth + 1
            return allowed
        probability, entropy, stops = drafts.probability[at], drafts.entropy[at], action.rule
        for depth in range(allowed - 1):
            seen = DraftedToken(depth + 1, probability[depth], entropy[depth], survival[depth])
            if stops(seen):
                return depth + 1
        return allowed

    def _costs(self, context: int) -> RoundCosts:
        """`CostProfile.at`, with a cache."""
        found = self._known_costs.get(context)
        if found is None:
            found = self._known_costs[context] = self.profile.at(context, self.batch_size)
        return found


@dataclass(frozen=True, slots=True)
class _Played:
    """A round before it is played."""

    work: RoundWork
    accepted: int
    at_leaf: bool  # whether a tree's accepted path ends at a leaf
    first: int  # tokens of the chain that signals describe
    levels: tuple[tuple[int, ...], ...] = ()  # see `Round.levels`


_NOTHING = _Played(PLAIN_STEP, 0, False, 0)


@dataclass(frozen=True, slots=True)
class _Drafts:
    """A `DraftTable` as lists, where single positions are read faster than in arrays."""

    accepted: list[int]  # [M]
    longest: list[int]  # [M] tokens that the drafter drafted at most
    probability: list[list[float]]  # [M][K]
    entropy: list[list[float]]
    survival: list[list[float]]

    @classmethod
    def of(cls, table: DraftTable) -> "_Drafts":
        return cls(
            table.accepted.tolist(),
            (table.tokens >= 0).sum(axis=1).tolist(),
            np.exp(table.signals[:, :, 0].astype(float)).tolist(),
            table.signals[:, :, 1].tolist(),
            table.survival.tolist(),
        )
