"""Hundreds of replayed texts side by side, in NumPy: a round of all of them in half a millisecond.

Every table is laid out so that a step gathers one row from it for each stream.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from adaspec_rl.control.observation import ObservationSpec, Observer, RoundArrays
from adaspec_rl.costs.profile import CostProfile, RoundCosts
from adaspec_rl.decoding.round import Action
from adaspec_rl.recording.trace import Trace
from adaspec_rl.replay.outcomes import (
    nearest_context,
    outcomes,
    recorded_forecasts,
    round_steps,
    text_features,
)


@dataclass(slots=True)
class StreamRounds:
    """One round of every stream, `[B]` each."""

    action: np.ndarray
    drafted: np.ndarray
    accepted: np.ndarray
    emitted: np.ndarray
    steps: np.ndarray  # cost, in autoregressive steps
    owed: np.ndarray  # how much more its drafters now have to catch up on, likewise
    finished: np.ndarray  # bool: the text ended


class ReplayTables:
    """What streams look up; made once, shared by any number of them."""

    def __init__(self, trace: Trace, actions: Sequence[Action]) -> None:
        found = outcomes(trace, actions)
        self.trace, self.actions = trace, found.actions
        self.positions = len(found.context)  # M
        self.depth = trace.max_length  # K
        self.context = found.context
        # [A * M] rows of (drafted, accepted, emitted, 0): 8 bytes, gathered as one number.
        packed = np.zeros((*found.drafted.shape, 4), dtype=np.int16)
        packed[..., 0], packed[..., 1] = found.drafted, found.accepted
        packed[..., 2] = found.emitted
        self.rounds = packed.view(np.int64).reshape(-1)
        self.prompt_lengths = np.array([len(text.prompt) for text in trace.texts])
        self.text_at_start, said = text_features(trace)
        recorded = recorded_forecasts(trace)
        ahead = np.zeros((self.positions, 2)) if recorded is None else recorded
        self.forecast_at_start = ahead[trace.starts[:-1]]  # [N, 2]
        after = np.roll(ahead, -1, axis=0)  # what is forecast once a token has been emitted
        after[trace.starts[1:] - 1] = 0.0
        entropy = np.concatenate([text.target_entropy for text in trace.texts])
        top = np.concatenate([text.target_top_probability for text in trace.texts])
        # [M, 8], by the last emitted token.
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
        self.drafts = np.concatenate(tables).reshape(-1, 5).astype(np.float32)  # [D * M * K, 5]
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
        """`profiles` are `P` lists of costs by context, `policy` the seconds of a decision."""
        self.tables, self.spec, self.streams = tables, spec, streams
        starts = tables.trace.starts
        self._starts, self._ends = starts[:-1], starts[1:]
        costs = [round_steps(p, tables.actions, s) for p, s in zip(profiles, policy)]
        self.contexts = len(profiles[0])
        self._costs = np.stack(costs).reshape(-1)  # [P * C * A * (K + 1)]
        self._depth = costs[0].shape[2]
        self.drafters = len(tables.trace.drafters)
        # What a token that a drafter has not read takes, in autoregressive steps, [P * C, D].
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
        self._unread = np.zeros((streams, self.drafters))  # see `cost_profile.Unread`
        self._rows = np.arange(streams)

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
        """Begin text `texts` `[rows]` in each of `rows`, at the cost of `profiles` `[rows]`."""
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

        Streams whose text has ended repeat its last round; don't count it.
        """
        t, at = self.tables, self.at
        played = t.rounds.take(actions * t.positions + at).view(np.int16).reshape(-1, 4)
        drafted, accepted, emitted = played[:, 0], played[:, 1], played[:, 2]
        row = self.profile * self.contexts
        if self.contexts > 1:
            row = row + self._context.take(at)
        steps = self._costs.take((row * len(t.actions) + actions) * self._depth + drafted)
        paid, owed = self._catch_up(t.drafter.take(actions), drafted, emitted, row)
        steps = steps + paid
        last = at + emitted - 1
        draft = (t.drafter.take(actions) * t.positions + at) * t.depth + np.maximum(drafted - 1, 0)
        after = t.after.take(last, axis=0)
        self.observer.update(
            RoundArrays(
                drafted=drafted,
                accepted=accepted,
                emitted=emitted,
                target=after[:, :2],
                draft=t.drafts.take(draft, axis=0) if len(t.drafts) else np.zeros((len(at), 5)),
                text=after[:, 2:-2],
                forecast=after[:, -2:],
                drafter=t.drafter.take(actions),
            )
        )
        finished = last + 1 >= self.end
        self.at = np.where(finished, last, last + 1)
        return StreamRounds(actions, drafted, accepted, emitted, steps, owed, finished)

    def _catch_up(
        self, drafter: np.ndarray, drafted: np.ndarray, emitted: np.ndarray, row: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Steps `[B]` that drafters take to read what was committed without them.

        Returns: what they take now, and by how much what is left to read has grown.
        """
        if not self.drafters:
            return np.zeros(len(drafter)), np.zeros(len(drafter))
        used = self._rows[drafted > 0], drafter[drafted > 0]
        rises = self._rises[row]  # [B, D]
        paid = np.zeros(len(drafter))
        paid[used[0]] = self._unread[used] * rises[used]
        own = np.zeros(len(drafter))  # of the drafter in use, which reads what it is told
        own[used[0]] = rises[used]
        owed = emitted * (rises.sum(axis=1) - own) - paid
        self._unread += emitted[:, None]
        self._unread[used] = 0.0
        return paid, owed

    def every_outcome(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens emitted and steps taken if each action were played now, `[B, A]` both.

        What drafters have to read is put down to the rounds that leave it unread.
        """
        t = self.tables
        actions = np.arange(len(t.actions))
        played = t.rounds.take(actions * t.positions + self.at[:, None]).view(np.int16)
        played = played.reshape(len(self.at), len(actions), 4)
        row = self.profile * self.contexts + self._context.take(self.at)
        cost = (row[:, None] * len(actions) + actions) * self._depth + played[..., 0]
        steps = self._costs.take(cost)
        if self.drafters:
            rises = self._rises[row]  # [B, D]
            own = rises[:, t.drafter] * (played[..., 0] > 0)  # [B, A]
            steps = steps + (rises.sum(axis=1, keepdims=True) - own) * played[..., 2]
        return played[..., 2], steps

    def observation(self) -> np.ndarray:
        """`[B, features]` float32."""
        return self.observer.observation()


@dataclass(frozen=True, slots=True)
class Totals:
    """A policy's sums over whole texts, `[N]` each."""

    tokens: np.ndarray
    steps: np.ndarray  # in autoregressive steps
    rounds: np.ndarray
    drafted: np.ndarray

    @property
    def speedup(self) -> float:
        """Throughput over plain decoding's: a ratio of sums."""
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
