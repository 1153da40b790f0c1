"""Rows of replayed texts, in batches that share the cost of their rounds, in NumPy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adaspec_rl.control.observation import ObservationSpec, Observer, RoundArrays
from adaspec_rl.costs.batch_costs import BatchCosts, Drafting
from adaspec_rl.decoding.round import FALLBACK
from adaspec_rl.recording.trace import Trace
from adaspec_rl.replay.outcomes import positions
from adaspec_rl.replay.streams import SAID, ReplayTables


class BatchTables:
    """The tables that rows read; made once, and shared by any number of rows."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.texts = ReplayTables(trace, (FALLBACK,))
        self.context, self.left, self.room = positions(trace)
        self.accepted = np.stack([table.accepted for table in trace.drafters])  # [D, M]
        self.longest = np.stack([(table.tokens >= 0).sum(axis=1) for table in trace.drafters])
        self.survival = np.stack([table.survival for table in trace.drafters])  # [D, M, K]
        self.prompts = np.array([len(text.prompt) for text in trace.texts])


@dataclass(frozen=True, slots=True)
class BatchRounds:
    """One round: `[R]` for rows, `[G]` for batches; rows without a text have zeros."""

    drafter: np.ndarray  # [R]
    drafted: np.ndarray  # [R]
    verified: np.ndarray  # [R]
    accepted: np.ndarray  # [R]
    emitted: np.ndarray  # [R]
    finished: np.ndarray  # [R] bool: the text ended
    seconds: np.ndarray  # [G]


class BatchRows:
    """`R` rows in `G` batches, each batch with its own costs.

    A round is `draft` and then `verify`. Between rounds, `start` gives a text to a row.

    Attributes:
        batch: `[R]`, the batch of each row.
        active: `[R]` bool, the rows that hold a text.
        at: `[R]`, each row's position in the trace.
    """

    def __init__(
        self,
        tables: BatchTables,
        batch: np.ndarray,
        costs: Sequence[BatchCosts],
        spec: ObservationSpec | None = None,
    ) -> None:
        """`costs`: one for each batch, or one for all. Without a `spec` nothing is observed."""
        self.tables, self.batch = tables, np.asarray(batch, dtype=np.int64)
        self.batches = int(self.batch.max()) + 1
        self.costs = list(costs) * (self.batches if len(costs) == 1 else 1)
        rows, drafters = len(self.batch), len(tables.trace.drafters)
        self.active = np.zeros(rows, dtype=bool)
        self.at = np.zeros(rows, dtype=np.int64)
        self.text = np.zeros(rows, dtype=np.int64)
        self._unread = np.zeros((rows, drafters))
        self._rows = np.arange(rows)
        self.observer = Observer(spec, None, rows) if spec else None
        self._drafter = self._drafted = np.zeros(rows, dtype=np.int64)
        self._stopping = np.zeros(rows, dtype=bool)

    def start(self, rows: np.ndarray, texts: np.ndarray) -> None:
        """Start text number `texts` `[n]` in `rows` `[n]`."""
        tables = self.tables
        self.active[rows], self.text[rows] = True, texts
        self.at[rows] = tables.trace.starts[texts]
        self._unread[rows] = tables.prompts[texts][:, None]
        if self.observer:
            said = tables.texts
            self.observer.reset(rows, said.text_at_start[texts], said.forecast_at_start[texts])

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """How many rows of each batch hold a text, and their average context: `[G]` both."""
        rows = self._sums(self.active)
        context = self._sums(np.where(self.active, self.tables.context[self.at], 0))
        return rows, context / np.maximum(rows, 1)

    def observation(self) -> np.ndarray:
        """`[R, features]` float32."""
        assert self.observer is not None
        if "cost" not in self.observer.spec.groups:
            return self.observer.observation()
        rows, context = self.counts()
        for g in np.flatnonzero(rows):
            values = self.costs[g].features(int(rows[g]), float(context[g])).values()
            self.observer.set_costs(values, np.flatnonzero(self.batch == g))
        return self.observer.observation()

    def draft(
        self,
        drafter: np.ndarray,
        length: np.ndarray,
        threshold: np.ndarray,
        estimated: bool = False,
    ) -> np.ndarray:
        """Draft in all rows with the given settings, `[R]` each.

        `estimated`: somebody allots, so that survivals cost time also where there is no threshold.

        Returns: estimated survivals `[R, K]`, 0 from the end of each draft on.
        """
        t, at = self.tables, self.at
        survival = t.survival[drafter, at]
        allowed = np.minimum(np.minimum(length, t.room[at]), t.longest[drafter, at])
        low = survival < threshold.astype(np.float32)[:, None]
        stops = np.where(low.any(axis=1), low.argmax(axis=1) + 1, survival.shape[1])
        drafted = np.where(self.active, np.minimum(allowed, stops), 0)
        self._drafter, self._drafted = drafter, np.maximum(drafted, 0)
        self._stopping = (threshold > 0) | estimated
        return np.where(np.arange(survival.shape[1]) < self._drafted[:, None], survival, 0.0)

    def verify(self, verified: np.ndarray) -> BatchRounds:
        """Verify the first `verified` `[R]` tokens of each draft, and extend the texts."""
        t, at = self.tables, self.at
        assert (verified <= self._drafted).all(), "more is verified than was drafted"
        accepted = np.minimum(t.accepted[self._drafter, at], verified)
        emitted = np.where(self.active, np.minimum(accepted + 1, t.left[at]), 0)
        seconds = self._seconds(verified)
        self._read(emitted)
        last = np.maximum(at + emitted - 1, 0)
        if self.observer:
            self._observe(verified, accepted, emitted, last)
        finished = self.active & (emitted == t.left[at])
        self.at = np.where(self.active & ~finished, last + 1, at)
        self.active = self.active & ~finished
        return BatchRounds(
            self._drafter, self._drafted, verified, accepted, emitted, finished, seconds
        )

    def _observe(
        self, verified: np.ndarray, accepted: np.ndarray, emitted: np.ndarray, last: np.ndarray
    ) -> None:
        assert self.observer is not None
        said = self.tables.texts
        place = (self._drafter * said.positions + self.at) * said.depth + np.maximum(
            verified - 1, 0
        )
        after = said.after[last]
        self.observer.update(
            RoundArrays(
                drafted=verified,
                accepted=accepted,
                emitted=emitted,
                reached=np.minimum(np.minimum(accepted + 1, verified), emitted),
                target=after[:, :2],
                draft=said.drafts[place],
                text=after[:, 2:SAID],
                forecast=after[:, SAID:],
                drafter=self._drafter,
            )
        )

    def _seconds(self, verified: np.ndarray) -> np.ndarray:
        """The seconds of the round, `[G]`."""
        depth, drafters = self.tables.survival.shape[2], self._unread.shape[1]
        pair = self.batch * drafters + self._drafter
        place = pair * (depth + 1) + self._drafted
        levels, stopping = (
            np.bincount(place, weights, self.batches * drafters * (depth + 1))
            .reshape(self.batches, drafters, depth + 1)[:, :, :0:-1]
            .cumsum(axis=2)[:, :, ::-1]
            for weights in (None, self._stopping)
        )
        owed = np.where(self._drafted > 0, self._unread[self._rows, self._drafter], 0.0)
        unread = np.bincount(pair, owed, self.batches * drafters).reshape(-1, drafters)
        rows, context = self.counts()
        drafting = Drafting(levels.astype(float), unread, stopping > 0)
        given = self._sums(verified)
        total = np.zeros(self.batches)
        for costs, mine in self._by_costs():
            part = Drafting(*(getattr(drafting, name)[mine] for name in Drafting.__slots__))
            total[mine] = costs.seconds(rows[mine], given[mine], context[mine], part)
        return np.where(rows > 0, total, 0.0)

    def _by_costs(self) -> list[tuple[BatchCosts, np.ndarray]]:
        """Each cost model in use, with the batches that use it."""
        kinds = {id(costs): costs for costs in self.costs}
        which = np.array([id(costs) for costs in self.costs])
        return [(costs, np.flatnonzero(which == key)) for key, costs in kinds.items()]

    def _read(self, emitted: np.ndarray) -> None:
        """Update unread tokens as `costs.profile.Unread` does: who drafts reads everything."""
        self._unread += emitted[:, None]
        used = self._rows[self._drafted > 0]
        self._unread[used, self._drafter[used]] = 0.0

    def _sums(self, values: np.ndarray) -> np.ndarray:
        """Sums over the rows of each batch, `[G]`."""
        return np.bincount(self.batch, weights=values, minlength=self.batches)
