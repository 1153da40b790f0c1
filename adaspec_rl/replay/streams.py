"""Hundreds of replayed texts side by side, in NumPy: a round of all takes half a millisecond.

Every table is laid out so that a step reads one row of it for each stream.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from adaspec_rl.control.observation import ObservationSpec, Observer, RoundArrays
from adaspec_rl.control.text_features import TEXT_FEATURES
from adaspec_rl.costs.profile import CostProfile, RoundCosts
from adaspec_rl.decoding.round import Action
from adaspec_rl.recording.trace import Trace
from adaspec_rl.replay.outcomes import (
    nearest_context,
    outcomes,
    recorded_forecasts,
    text_features,
    work_steps,
)

SAID = 2 + len(TEXT_FEATURES)  # columns of `ReplayTables.after` before the forecast


@dataclass(slots=True)
class StreamRounds:
    """One round of every stream, `[B]` each."""

    action: np.ndarray
    drafted: np.ndarray
    accepted: np.ndarray
    emitted: np.ndarray
    steps: np.ndarray  # cost, in autoregressive steps
    owed: np.ndarray  # growth of what the drafters have yet to read, in autoregressive steps
    finished: np.ndarray  # bool: the text ended


class ReplayTables:
    """The tables that streams read; made once, and shared by any number of streams."""

    def __init__(self, trace: Trace, actions: Sequence[Action]) -> None:
        found = outcomes(trace, actions)
        self.trace, self.actions = trace, found.actions
        self.positions = len(found.context)  # M
        self.depth = trace.max_length  # K
        self.context = found.context
        # [A * M] rows of (drafted, accepted, emitted, reached): 8 bytes, gathered as one number.
        rounds = (found.drafted, found.accepted, found.emitted, found.reached)
        self.rounds = np.stack(rounds, axis=-1).view(np.int64).reshape(-1)
        self.work = found.work.reshape(-1)  # [A * M], an index into the next three
        self.works, self.first = found.works, found.first  # [U]
        self.uses = found.uses  # [U, D]
        self.prompt_lengths = np.array([len(text.prompt) for text in trace.texts])
        self.text_at_start, said = text_features(trace)
        ahead = recorded_forecasts(trace)
        self.forecast_at_start = ahead[trace.starts[:-1]]  # [N, 2 and more]
        after = np.roll(ahead, -1, axis=0)  # the forecast after a token has been emitted
        after[trace.starts[1:] - 1] = 0.0
        entropy = np.concatenate([text.target_entropy for text in trace.texts])
        top = np.concatenate([text.target_top_probability for text in trace.texts])
        # [M, 8 and more], indexed by the last emitted token: target, text, forecast.
        self.after = np.column_stack([entropy, top, said, after]).astype(np.float32)
        tables = [
            np.stack(
                [
                    np.exp(table.signals[:, :1, 0]).repeat(self.depth, axis=1),
                    table.survival,
                    np.exp(table.signals[:, :, 0]),
                    table.signals[:, :, 1],
                    np.minimum(table.signals[:, :, 2], 100.0),
                ],
                axis=-1,
            )
            for table in trace.drafters
        ]
        drafts = [table.reshape(-1, 5) for table in tables]
        # [D * M * K + 1, 5]; the last row, zeros, stands for a round without a chain.
        self.drafts = np.concatenate([*drafts, np.zeros((1, 5))]).astype(np.float32)
        self.drafter = np.array([action.drafter for action in actions], dtype=np.int64)


class ReplayStreams:
    """`B` streams that replay texts of one trace under one or many cost profiles.

    Attributes:
        rates: λ of each profile, `[P]`: the speedup that rewards are measured against.
    """

    def __init__(
        self,
        tables: ReplayTables,
        spec: ObservationSpec,
        profiles: Sequence[Sequence[RoundCosts]],
        *,
        policy: Sequence[float],
        streams: int,
    ) -> None:
        """`profiles` are `P` lists of costs by context; `policy`, the seconds of a decision."""
        self.tables, self.spec, self.streams = tables, spec, streams
        starts = tables.trace.starts
        self._starts, self._ends = starts[:-1], starts[1:]
        costs = [work_steps(p, tables.works, s) for p, s in zip(profiles, policy)]
        self.contexts = len(profiles[0])
        self._costs = np.stack(costs).reshape(-1)  # [P * C * U]
        self.drafters = len(tables.trace.drafters)
        # The cost of reading one unread token, in autoregressive steps, [P * C, D].
        self._rises = np.array(
            [[np.divide(p.catch_up, p.autoregressive_step) for p in points] for points in profiles]
        ).reshape(-1, self.drafters)
        middle = [points[len(points) // 2] for points in profiles]
        self.cost_features = np.stack([point.features().values() for point in middle])  # [P, F]
        self._context = nearest_context(profiles[0], tables.context)  # [M]
        self.rates = np.ones(len(profiles))
        self.observer = Observer(spec, None, streams)
        self.profile = np.zeros(streams, dtype=np.int64)  # [B] in use
        self.text = np.zeros(streams, dtype=np.int64)
        self.at = np.zeros(streams, dtype=np.int64)  # [B] position in the trace
        self.end = np.zeros(streams, dtype=np.int64)
        self._unread = np.zeros((streams, self.drafters))  # see `costs.profile.Unread`

    @classmethod
    def of(
        cls,
        tables: ReplayTables,
        spec: ObservationSpec,
        profile: CostProfile,
        *,
        streams: int,
        batch_size: int = 1,
    ) -> "ReplayStreams":
        """Streams under one measured profile."""
        points = profile.contexts(batch_size)
        return cls(tables, spec, [points], policy=[profile.policy], streams=streams)

    def start(
        self, rows: np.ndarray | slice, texts: np.ndarray, profiles: np.ndarray | int = 0
    ) -> None:
        """Start text `texts` `[rows]` in each of `rows`, with the costs of `profiles` `[rows]`."""
        self.text[rows] = texts
        self.profile[rows] = profiles
        self.at[rows] = self._starts[texts]
        self.end[rows] = self._ends[texts]
        self._unread[rows] = self.tables.prompt_lengths[texts][:, None]
        self.observer.set_costs(self.cost_features[profiles], rows)
        self.observer.reset(
            rows, self.tables.text_at_start[texts], self.tables.forecast_at_start[texts]
        )

    def step(self, actions: np.ndarray) -> StreamRounds:
        """Play one round of action number `actions` `[B]` in every stream.

        A stream whose text has ended repeats its last round, which must not be counted.
        """
        t, at = self.tables, self.at
        place = actions * t.positions + at
        played = t.rounds.take(place).view(np.int16).reshape(-1, 4)
        drafted, accepted, emitted = played[:, 0], played[:, 1], played[:, 2]
        work = t.work.take(place)
        row = self.profile * self.contexts
        if self.contexts > 1:
            row = row + self._context.take(at)
        paid, owed = self._catch_up(t.uses.take(work, axis=0), emitted, row)
        steps = self._costs.take(row * len(t.works) + work) + paid
        last = at + emitted - 1
        first, drafter = t.first.take(work), t.drafter.take(actions)
        after = t.after.take(last, axis=0)
        self.observer.update(
            RoundArrays(
                drafted=drafted,
                accepted=accepted,
                emitted=emitted,
                reached=played[:, 3],
                target=after[:, :2],
                draft=self._signals(drafter, at, first),
                text=after[:, 2:SAID],
                forecast=after[:, SAID:],
                drafter=drafter,
            )
        )
        finished = last + 1 >= self.end
        self.at = np.where(finished, last, last + 1)
        return StreamRounds(actions, drafted, accepted, emitted, steps, owed, finished)

    def _signals(self, drafter: np.ndarray, at: np.ndarray, first: np.ndarray) -> np.ndarray:
        """The signals of chains of `first` `[B]` tokens, `[B, 5]`; zeros if there is no chain."""
        t = self.tables
        place = (drafter * t.positions + at) * t.depth + first - 1
        return t.drafts.take(np.where(first > 0, place, len(t.drafts) - 1), axis=0)

    def _catch_up(
        self, uses: np.ndarray, emitted: np.ndarray, row: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Steps `[B]` that drafters take to read what was committed without them.

        Args:
            uses: the drafters that draft, `[B, D]`; they read everything before the round.

        Returns: the steps taken now, and the growth of the steps that are left for later.
        """
        rises = self._rises[row]  # [B, D]
        paid = np.einsum("bd,bd,bd->b", self._unread, rises, uses)
        owed = emitted * np.einsum("bd,bd->b", rises, ~uses) - paid
        self._unread = np.where(uses, 0.0, self._unread + emitted[:, None])
        return paid, owed

    def every_outcome(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens emitted and steps taken if each action were played now, `[B, A]` both.

        The steps to read a token are charged to the round that leaves it unread.
        """
        t = self.tables
        place = np.arange(len(t.actions)) * t.positions + self.at[:, None]  # [B, A]
        emitted = t.rounds.take(place).view(np.int16).reshape(*place.shape, 4)[..., 2]
        work = t.work.take(place)
        row = self.profile * self.contexts + self._context.take(self.at)
        steps = self._costs.take(row[:, None] * len(t.works) + work)
        left = np.einsum("bd,bad->ba", self._rises[row], ~t.uses.take(work, axis=0))
        return emitted, steps + left * emitted

    def observation(self, rows: np.ndarray | None = None) -> np.ndarray:
        """`[B, features]` float32; with `rows`, of these streams alone."""
        return self.observer.observation(rows)


@dataclass(frozen=True, slots=True)
class Totals:
    """A policy's totals over whole texts, `[N]` each."""

    tokens: np.ndarray
    steps: np.ndarray  # in autoregressive steps
    rounds: np.ndarray
    drafted: np.ndarray

    @property
    def speedup(self) -> float:
        """Throughput over that of plain decoding, as a ratio of sums."""
        return float(self.tokens.sum() / self.steps.sum())


def play_all(
    streams: ReplayStreams, decide: Callable[[np.ndarray], np.ndarray], profile: int = 0
) -> Totals:
    """Play every text once, side by side; `decide` maps observations `[N, F]` to actions `[N]`.

    There must be as many streams as texts.
    """
    count = len(streams.tables.trace.texts)
    assert streams.streams == count, f"{streams.streams} streams for {count} texts"
    streams.start(slice(None), np.arange(count), np.full(count, profile))
    sums = np.zeros((4, count))
    alive = np.ones(count, dtype=bool)
    while alive.any():
        played = streams.step(decide(streams.observation()))
        values = (played.emitted, played.steps, np.ones(count), played.drafted)
        for total, value in zip(sums, values):
            total += np.where(alive, value, 0.0)
        alive &= ~played.finished
    return Totals(*sums)
