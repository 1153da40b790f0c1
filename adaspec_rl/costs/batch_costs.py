"""What a round of many rows costs: shared forward passes, and overheads."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adaspec_rl import strict_json
from adaspec_rl.control.checks import check_between
from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.costs.forward_costs import ForwardCosts
from adaspec_rl.files import write_atomically

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class DrafterCosts:
    """One drafter's seconds. Drafting goes level by level: one pass over the rows still drafting.

    A drafter that works on the host, row by row, has `forward` seconds that grow with the rows.
    """

    forward: ForwardCosts  # of one level; the first level also reads unread tokens
    stopping: float = 0.0  # extra seconds of a level at which a threshold may stop a draft
    overhead: float = 0.0  # of a round in which the drafter drafts, beyond its passes
    stopping_row: float = 0.0  # extra seconds for each row at such a level
    overhead_row: float = 0.0  # for each row that drafts

    def __post_init__(self) -> None:
        for name in ("stopping", "stopping_row", "overhead", "overhead_row"):
            check_between(name, getattr(self, name), 0.0)


@dataclass(frozen=True, slots=True)
class Drafting:
    """What the `D` drafters of `G` batches did in one round, up to `K` levels deep."""

    rows: np.ndarray  # [G, D, K] rows that drafted token number 1, 2, …
    unread: np.ndarray  # [G, D] tokens that those rows had to catch up on
    stopping: np.ndarray  # [G, D, K] bool: some draft at this level may be stopped by a threshold


@dataclass(frozen=True, slots=True)
class BatchCosts:
    """Seconds of rounds: drafting level by level, one verification of all rows, overheads."""

    device: str  # also says whether it was measured or modelled
    target: ForwardCosts
    drafters: tuple[DrafterCosts, ...]
    overhead: float = 0.0  # of every round, beyond its forward passes
    policy: float = 0.0  # of a learned policy's decision in a round
    policy_row: float = 0.0  # and for each row

    def __post_init__(self) -> None:
        for name in ("overhead", "policy", "policy_row"):
            check_between(name, getattr(self, name), 0.0)

    def seconds(
        self, rows: np.ndarray, verified: np.ndarray, context: np.ndarray, drafting: Drafting
    ) -> np.ndarray:
        """Seconds `[G]` of one round of `G` batches.

        Args:
            rows: `[G]` rows that are decoding.
            verified: `[G]` drafted tokens in the one verification.
            context: `[G]` average number of tokens in a row.
        """
        total = self.verifying(rows, verified, context)
        for d, costs in enumerate(self.drafters):
            if drafting.rows[:, d].any():
                levels = drafting.rows[:, d]  # [G, K]
                tokens = levels.copy()
                tokens[:, 0] += drafting.unread[:, d]
                passes = costs.forward(levels, tokens, context[:, None])
                stopping = costs.stopping + costs.stopping_row * levels
                passes += stopping * drafting.stopping[:, d]
                total = total + passes.sum(axis=1) + self.beginning(d, levels[:, 0])
        return total

    def verifying(self, rows: np.ndarray, verified: np.ndarray, context: np.ndarray) -> np.ndarray:
        """Seconds of a round without drafts that verifies `verified` tokens, overhead included."""
        return self.target(rows, rows + verified, context) + self.overhead

    def drafting(
        self,
        drafter: int,
        rows: np.ndarray,
        context: np.ndarray,
        unread: np.ndarray | float = 0.0,
        stopping: bool = False,
    ) -> np.ndarray:
        """Seconds of one level of a draft over `rows`, which have `unread` tokens in total to read.

        `stopping`: a threshold may stop some of the rows there.
        """
        costs = self.drafters[drafter]
        seconds = costs.forward(rows, rows + unread, context)
        return seconds + (costs.stopping + costs.stopping_row * rows if stopping else 0.0)

    def beginning(self, drafter: int, rows: np.ndarray) -> np.ndarray:
        """Seconds of a round in which `rows` draft, besides its levels; 0 if no row drafts."""
        costs = self.drafters[drafter]
        return (rows > 0) * (costs.overhead + costs.overhead_row * rows)

    def deciding(self, rows: int) -> float:
        """Seconds that a learned policy takes to decide for `rows`."""
        return self.policy + self.policy_row * rows

    def features(self, rows: int, context: float) -> CostFeatures:
        """Costs as a single row's policy observes them, if all rows draft and verify alike."""
        count, at = np.array([float(rows)]), np.array([context])
        plain = float(self.verifying(count, np.zeros(1), at)[0])
        rise = float(self.verifying(count, count, at)[0]) - plain
        steps = [float(self.drafting(d, count, at)[0]) / plain for d in range(len(self.drafters))]
        return CostFeatures(
            draft_step=steps[0] if steps else 0.0,
            verification_step=rise / plain,
            overhead=float(self.beginning(0, count)[0]) / plain if steps else 0.0,
            batch_size=rows,
            other_draft_steps=tuple(steps[1:]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Values for JSON, which `from_dict` reads."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "BatchCosts":
        """Read what `to_dict` wrote.

        Raises:
            ValueError: another schema, or a value is missing or invalid.
        """
        found = values.get("schema")
        if type(found) is not int or found != SCHEMA:
            raise ValueError(f"batch costs of schema {found!a:.40}: expected {SCHEMA}")
        return strict_json.typed(cls, {k: v for k, v in values.items() if k != "schema"})

    def save(self, path: Path) -> None:
        """Write as JSON."""
        write_atomically(path, json.dumps(self.to_dict()) + "\n")

    @classmethod
    def load(cls, path: Path) -> "BatchCosts":
        """Read a JSON file that `save` wrote.

        Raises:
            ValueError: there is no such file, or it holds no batch costs.
        """
        if not path.is_file():
            raise ValueError(f"there is no file of batch costs {path}: expected JSON")
        values = strict_json.read(path, f"the batch costs {path}")
        if not isinstance(values, dict):
            raise ValueError(f"{path} holds no object: expected batch costs")
        try:
            return cls.from_dict(values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
