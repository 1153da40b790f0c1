"""Simulates serving in replay: requests arrive, wait for a row, and are decoded in batches."""

from collections import deque
from dataclasses import dataclass

import numpy as np

from adaspec_rl.control.batch_controller import BatchController
from adaspec_rl.costs.batch_costs import BatchCosts
from adaspec_rl.replay.batch_replay import BatchReplay
from adaspec_rl.replay.batch_rows import BatchTables


@dataclass(frozen=True, slots=True)
class Served:
    """What happened to `N` requests, and the work that they took."""

    arrived: np.ndarray  # [N] seconds
    first: np.ndarray  # [N] when the first tokens were ready
    ended: np.ndarray  # [N]
    tokens: np.ndarray  # [N]
    rounds: int
    prefills: int  # passes over prompts
    drafted: int
    verified: int
    accepted: int

    @property
    def throughput(self) -> float:
        """Tokens per second, from the first arrival to the last end."""
        return float(self.tokens.sum() / (self.ended.max() - self.arrived[0]))

    @property
    def to_first(self) -> np.ndarray:
        """Seconds `[N]` from arrival to the first tokens."""
        return self.first - self.arrived

    @property
    def per_token(self) -> np.ndarray:
        """Seconds `[N]` per token after the first ones; 0 if there were none."""
        return (self.ended - self.first) / np.maximum(self.tokens - 1, 1)

    def goodput(self, to_first: float, per_token: float) -> float:
        """Requests per second that met both latency limits."""
        kept = (self.to_first <= to_first) & (self.per_token <= per_token)
        return float(kept.sum() / (self.ended.max() - self.arrived[0]))

    def figures(self, to_first: float, per_token: float) -> dict[str, float]:
        """Results by name, times in seconds; the arguments are the latency limits of goodput."""
        found = {"tokens_per_second": self.throughput}
        for name, values in (("to_first", self.to_first), ("per_token", self.per_token)):
            for share in (50, 95, 99):
                found[f"{name}_p{share}"] = float(np.percentile(values, share))
        return found | {
            "goodput": self.goodput(to_first, per_token),
            "target_passes": self.rounds + self.prefills,
            "verified": self.verified,
            "thrown_away": self.drafted - self.accepted,
        }


def serve(
    tables: BatchTables,
    costs: BatchCosts,
    controller: BatchController,
    arrived: np.ndarray,
    texts: np.ndarray,
    rows: int,
) -> Served:
    """Decode recorded text `texts[n]` for the request that arrives at `arrived[n]`, rising.

    Requests get rows in order, between rounds. Prompts of all new rows are read in one pass, which
    delays all rows; their first tokens come with the next round.
    """
    batch = BatchReplay(tables, costs, controller, rows)
    count = len(arrived)
    first, ended = np.full(count, np.nan), np.full(count, np.nan)
    holder = np.full(rows, -1)
    waiting: deque[int] = deque()
    now, come, prefills = float(arrived[0]), 0, 0
    work = np.zeros(4, dtype=np.int64)
    while np.isnan(ended).any():
        while come < count and arrived[come] <= now:
            waiting.append(come)
            come += 1
        free = batch.free
        if len(free) == rows and not waiting:
            now = float(arrived[come])
            continue
        taken = [(row, waiting.popleft()) for row in free[: len(waiting)]]
        for row, request in taken:
            batch.admit(row, int(texts[request]))
            holder[row] = request
        if taken:
            now += _prefill(costs, tables.prompts[texts[[request for _, request in taken]]])
            prefills += 1
        played = batch.step(len(waiting))
        now += played.seconds
        requests = holder[played.rows]
        first[requests] = np.where(np.isnan(first[requests]), now, first[requests])
        ended[holder[played.ended]] = now
        made = played.rounds
        work += [1, made.drafted.sum(), made.verified.sum(), made.accepted.sum()]
    tokens = np.diff(tables.trace.starts)[texts]
    rounds, drafted, verified, accepted = work.tolist()
    return Served(arrived, first, ended, tokens, rounds, prefills, drafted, verified, accepted)


def _prefill(costs: BatchCosts, prompts: np.ndarray) -> float:
    """Seconds of one pass over prompts of these lengths; a token sees half on average."""
    rows, tokens = np.array(float(len(prompts))), np.array(float(prompts.sum()))
    return float(costs.target(rows, tokens, np.array(prompts.mean() / 2)))
