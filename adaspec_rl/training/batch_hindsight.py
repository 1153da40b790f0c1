"""Learn what a row's drafts are worth, from recordings, which have every outcome."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from adaspec_rl.config import AgentConfig
from adaspec_rl.control.batch_controller import BatchController, Load
from adaspec_rl.control.batching.outlook import Outlook, outcomes
from adaspec_rl.control.batching.planned import PlannedBatch
from adaspec_rl.control.batching.rule import BatchRule
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.costs.batch_costs import BatchCosts
from adaspec_rl.decoding.round import FALLBACK, Action
from adaspec_rl.replay.batch_replay import BatchReplay
from adaspec_rl.replay.batch_rows import BatchTables
from adaspec_rl.training.hindsight import actor_of, network_of, regress

ROWS = 256  # decoded side by side while actions are random
ANEW = 0.2  # chance that a row changes its kind of drafts
THRESHOLDS = (0.0, 0.2, 0.5, 0.8)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)  # of batches in the second pass
PAIRS = 4  # of prices, for each state

States = tuple[np.ndarray, np.ndarray]  # observations [n, F], positions in the trace [n]


def fit_outlook(
    tables: BatchTables,
    spec: ObservationSpec,
    costs: BatchCosts,
    config: AgentConfig,
    *,
    depth: int,
    seed: int,
    sizes: Sequence[int] = SIZES,
    progress: Callable[[float], None] = lambda share: None,
) -> Outlook:
    """Regress each drafted token's gain on its row's observation; the same seed gives the same fit.

    The fit uses `config.total_steps` states: half are visited under random actions, half by the
    policy fitted to the first half, in batches of each of `sizes` rows under `costs`.
    """
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    half = config.total_steps // 2
    states = [_visited(tables, costs, RandomDrafts(spec, depth, rng), ROWS, half, rng)]
    outlook = _fit(tables, spec, states, config, depth, rng, generator)
    progress(0.5)
    for number, size in enumerate(sizes):
        policy = PlannedBatch(outlook, costs, longest=0)
        states.append(_visited(tables, costs, policy, size, half // len(sizes), rng))
        progress(0.5 + 0.5 * (number + 1) / (len(sizes) + 1))
    return _fit(tables, spec, states, config, depth, rng, generator)


class RandomDrafts(BatchRule):
    """Random drafts; each row keeps its kind of drafts for several rounds."""

    name = "random"

    def __init__(self, spec: ObservationSpec, depth: int, rng: np.random.Generator) -> None:
        self.observes: ObservationSpec | None = spec
        self._drafters, self._depth, self._rng = spec.drafters, depth, rng
        self._told: dict[int, Action] = {}

    def decide(
        self, rows: Sequence[int], observations: np.ndarray | None, load: Load
    ) -> list[Action]:
        for row in rows:
            if row not in self._told or self._rng.random() < ANEW:
                length = int(self._rng.integers(self._depth + 1))
                drafter = int(self._rng.integers(self._drafters))
                threshold = float(self._rng.choice(THRESHOLDS))
                self._told[row] = Action(length, drafter, threshold) if length else FALLBACK
        return [self._told[row] for row in rows]


def _visited(
    tables: BatchTables,
    costs: BatchCosts,
    policy: BatchController,
    size: int,
    count: int,
    rng: np.random.Generator,
) -> States:
    """About `count` states of rows in a full batch of `size` under `policy`."""
    batch = BatchReplay(tables, costs, policy, size)
    texts = len(tables.trace.texts)
    for row in range(size):
        batch.admit(row, int(rng.integers(texts)))
    seen, at = [], []
    for _ in range(max(1, count // size)):
        seen.append(batch.state.observation())
        at.append(batch.state.at.copy())
        for row in batch.step().ended:
            batch.admit(row, int(rng.integers(texts)))
    return np.concatenate(seen), np.concatenate(at)


def _fit(
    tables: BatchTables,
    spec: ObservationSpec,
    states: Sequence[States],
    config: AgentConfig,
    depth: int,
    rng: np.random.Generator,
    generator: torch.Generator,
) -> Outlook:
    seen, at = (np.concatenate(parts) for parts in zip(*states))
    seen, at = np.tile(seen, (PAIRS, 1)), np.tile(at, PAIRS)
    # Prices near 0 are those of small batches, near 1 those of large ones.
    price = rng.random(len(at)) * (rng.random(len(at)) < 0.7)
    stop = price + (1.0 - price) * rng.random(len(at)) ** 2
    allowed = np.minimum(tables.room[at][:, None], tables.longest[:, at].T)  # [n, D]
    survival = tables.survival[:, at, :depth].transpose(1, 0, 2)
    survival = np.where(np.arange(depth) < allowed[..., None], survival, 0.0)
    answers = outcomes(survival, tables.accepted[:, at].T, price, stop)
    inputs = np.column_stack([seen, price, stop]).astype(np.float32)
    outputs = answers.reshape(len(at), -1).astype(np.float32)
    network = network_of([inputs.shape[1], *config.hidden, outputs.shape[1]], generator)
    regress(network, inputs, outputs, config, generator)
    return Outlook(actor_of(network), spec, depth)
