"""Batched decoding as Gymnasium environments: one step is one round of all rows."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from adaspec_rl.control.batching.outlook import Outlook, outcomes
from adaspec_rl.control.batching.planned import PlannedBatch
from adaspec_rl.control.learned import Actor
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.costs.batch_costs import BatchCosts
from adaspec_rl.costs.modelled_gpu import modelled
from adaspec_rl.envs.inputs import is_index, option
from adaspec_rl.envs.replay import small_recording
from adaspec_rl.recording.trace import Trace
from adaspec_rl.replay.batch_replay import BatchReplay
from adaspec_rl.replay.batch_rows import BatchTables

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)  # rows, drawn for each episode
FACTORS = (0.5, 0.8, 1.0, 1.25, 2.0)
FEATURES = (
    "log2_rows",  # divided by 9
    "throughput",  # of the last round, divided by plain decoding's
    "drafted",  # tokens per row in the last round, divided by the longest draft
    "verified",  # likewise
    "accepted",  # likewise
    "draft_step",  # of the first drafter at this size, in plain rounds
    "verification_step",  # likewise
)


class SpecDecodeBatchEnv(gym.Env[np.ndarray, np.ndarray]):
    """A batch under a planned policy; an action scales the prices that the policy plans with.

    An action is two indices into `FACTORS`: the factor on the price of a verified token, and the
    factor on the price of a drafted token; `(2, 2)` leaves the plan as it is. When a row's text
    ends, the row takes another recorded text. An episode has a number of rows drawn from `sizes`
    and is truncated after `rounds` rounds. The reward is the round's tokens per row, minus its
    seconds divided by those of a plain round.
    """

    metadata = {"render_modes": []}

    def __init__(
        self,
        tables: BatchTables,
        costs: BatchCosts,
        outlook: Outlook,
        *,
        sizes: Sequence[int] = SIZES,
        rounds: int = 64,
    ) -> None:
        """Raises ValueError: no sizes, or an episode without rounds."""
        if not sizes or min(sizes) < 1 or rounds < 1:
            raise ValueError(
                f"expected sizes and rounds of at least 1, got {list(sizes)} and {rounds}"
            )
        self.tables, self.costs, self.sizes, self.rounds = tables, costs, tuple(sizes), rounds
        self.policy = PlannedBatch(outlook, costs, longest=0)
        self.action_space = gym.spaces.MultiDiscrete([len(FACTORS), len(FACTORS)])
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (len(FEATURES),), np.float32)
        self._batch: BatchReplay | None = None
        self._left = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin with a full batch of random texts, of `options["rows"]` rows if that is given.

        Raises:
            ValueError: there is no such option, or no such number of rows.
        """
        super().reset(seed=seed)
        rows = option(options, "rows", int(self.np_random.choice(self.sizes)))
        if not is_index(rows, max(self.sizes) + 1) or rows < 1:
            raise ValueError(f"the option rows is {rows!r}: expected 1 to {max(self.sizes)}")
        self._batch = BatchReplay(self.tables, self.costs, self.policy, rows)
        self._admit(list(range(rows)))
        self._left = self.rounds
        self._seen = np.zeros(len(FEATURES), dtype=np.float32)
        self._costs_at(rows)
        return self._seen.copy(), {"rows": rows}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Play one round under these factors.

        Raises:
            ValueError: there is no such action, or no episode is under way.
        """
        chosen = np.asarray(action)
        if chosen.shape != (2,) or not all(is_index(one, len(FACTORS)) for one in chosen):
            raise ValueError(
                f"the action is {action!r}: expected 2 integers from 0 to {len(FACTORS) - 1}"
            )
        if self._batch is None or not self._left:
            raise ValueError("the episode has not begun or is over: call reset() before step()")
        self.policy.verify, self.policy.draft = (FACTORS[int(one)] for one in chosen)
        plain = self._plain()
        played = self._batch.step()
        count, made = len(played.rows), played.rounds
        self._admit(played.ended)
        self._left -= 1
        tokens = made.emitted.sum() / count
        depth = self.tables.trace.max_length
        self._seen[1] = tokens / (played.seconds / plain)
        shown = (made.drafted, made.verified, made.accepted)
        self._seen[2:5] = [values.sum() / count / depth for values in shown]
        info = {"tokens": int(made.emitted.sum()), "seconds": played.seconds}
        reward = float(tokens - played.seconds / plain)
        return self._seen.copy(), reward, False, self._left == 0, info

    def _admit(self, rows: Sequence[int]) -> None:
        assert self._batch is not None
        for row in rows:
            self._batch.admit(row, int(self.np_random.integers(len(self.tables.trace.texts))))

    def _costs_at(self, rows: int) -> None:
        """Fill in the features that stay as they are for an episode."""
        found = self.costs.features(rows, float(self.tables.context.mean()))
        self._seen[0] = np.log2(rows) / 9
        self._seen[-2:] = found.draft_step, found.verification_step

    def _plain(self) -> float:
        """Seconds of a plain round of the current texts."""
        assert self._batch is not None
        rows, context = self._batch.state.counts()
        return float(self.costs.verifying(rows, np.zeros(1), context)[0])


def make_batch_env(
    trace: Trace | None = None,
    costs: BatchCosts | None = None,
    outlook: Outlook | None = None,
    *,
    sizes: Sequence[int] = SIZES,
    rounds: int = 64,
) -> SpecDecodeBatchEnv:
    """An environment over a recording.

    Without a `trace`, a few training prompts are recorded first. The default `costs` are those
    modelled for an H200. The default `outlook` expects the average of all rows from every row.
    """
    tables = BatchTables(trace or small_recording(2, 0.0))
    return SpecDecodeBatchEnv(
        tables, costs or modelled(), outlook or average_outlook(tables), sizes=sizes, rounds=rounds
    )


def average_outlook(tables: BatchTables) -> Outlook:
    """An outlook that is the same for all rows: linear in the prices, by least squares."""
    depth, drafters = tables.trace.max_length, len(tables.trace.drafters)
    spec = ObservationSpec(("context",), depth, drafters=drafters)
    rng = np.random.default_rng(0)
    at = rng.integers(len(tables.left), size=4096)
    price = rng.random(len(at)) * (rng.random(len(at)) < 0.7)
    stop = price + (1.0 - price) * rng.random(len(at)) ** 2
    survival = tables.survival[:, at].transpose(1, 0, 2)
    answers = outcomes(survival, tables.accepted[:, at].T, price, stop).reshape(len(at), -1)
    inputs = np.column_stack([price, stop, np.ones(len(at))])
    line = np.linalg.lstsq(inputs, answers, rcond=None)[0].astype(np.float32)
    blind = np.zeros((len(spec), line.shape[1]), dtype=np.float32)
    return Outlook(Actor((np.concatenate([blind, line[:2]]),), (line[2],)), spec, depth)
