"""Choosing the number of draft steps in SGLang: its own averages, or a trained actor.

Both have the interface of SGLang's `AdaptiveSpecPolicy`, which decides for a whole batch.
`AdaptiveSteps` replays both as exported. Nothing of SGLang is imported.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from adaspec_rl import strict_json
from adaspec_rl.control.baselines.sglang_tiers import SglangTiers
from adaspec_rl.control.batch_controller import Load
from adaspec_rl.control.batching.rule import BatchRule
from adaspec_rl.control.learned import LearnedPolicy
from adaspec_rl.control.observation import CostFeatures, ObservationSpec, Observer, RoundArrays
from adaspec_rl.costs.batch_costs import BatchCosts
from adaspec_rl.decoding.round import FALLBACK, Action, Round
from adaspec_rl.interop.runtime import COSTS, POLICY
from adaspec_rl.training.bundle import PolicyBundle, load_bundle

PROBE = 64  # rounds without a draft after which the shortest one is tried
DEFAULTS = {
    "ema_alpha": 0.2,
    "up_hysteresis": 0.0,
    "down_hysteresis": -0.25,
    "update_interval": 5,
    "warmup_batches": 10,
}


class StepsPolicy(Protocol):
    """SGLang's `AdaptiveSpecPolicy`."""

    @property
    def candidate_steps(self) -> list[int]: ...

    def set_cuda_graph_bs(self, cuda_graph_bs: list[int] | None) -> None: ...

    def get_steps_for_batch(self, batch_size: int) -> int: ...

    def on_verify_complete(
        self,
        num_correct_drafts_per_req: list[int],
        batch_size: int,
        num_steps: int | None = None,
    ) -> int | None: ...

    def cuda_graph_bs_for_step(self, step: int) -> list[int] | None: ...

    def on_state_activated(self, steps: int) -> None: ...


class _Graphs:
    """The captured batch sizes for each number of steps: all sizes for every number."""

    _sizes: list[int] | None = None

    def set_cuda_graph_bs(self, cuda_graph_bs: list[int] | None) -> None:
        self._sizes = cuda_graph_bs

    def cuda_graph_bs_for_step(self, step: int) -> list[int] | None:
        return self._sizes

    def on_state_activated(self, steps: int) -> None:
        pass


class EmaSteps(_Graphs):
    """SGLang's strategy `ema` with a file for `--speculative-adaptive-config`.

    Deviates: a slot starts with the middle one of its candidates, whatever
    `--speculative-num-steps` is, and batch sizes are not padded to captured ones first.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        """`config` has slots by batch size, and settings for all of them.

        Raises:
            ValueError: there is no slot, or a slot has no candidates.
        """
        self._slots: dict[int, SglangTiers] = {}
        for key, slot in config.items():
            if not key.isdigit():
                continue
            given = {**DEFAULTS, **{k: v for k, v in config.items() if not k.isdigit()}, **slot}
            steps = given.get("candidate_steps")
            if not steps or not all(type(step) is int and step >= 0 for step in steps):
                raise ValueError(
                    f"candidate_steps of batch size {key} are {steps!a:.60}: expected a list of "
                    "integers of at least 0"
                )
            self._slots[int(key)] = SglangTiers(
                max(1, *steps),
                tiers=steps,
                rate=given["ema_alpha"],
                up=given["up_hysteresis"],
                down=given["down_hysteresis"],
                interval=given["update_interval"],
                warmup=given["warmup_batches"],
            )
        if not self._slots:
            raise ValueError(f"expected a batch size among the keys, got {sorted(config)}")
        every = {step for key in config if key.isdigit() for step in config[key]["candidate_steps"]}
        self.candidate_steps = sorted(every)

    @classmethod
    def load(cls, path: Path) -> "EmaSteps":
        """Load the file that SGLang gets."""
        return cls(strict_json.read(path, f"the file {path}"))

    def get_steps_for_batch(self, batch_size: int) -> int:
        return self._slot(batch_size).decide(None).length

    def on_verify_complete(
        self,
        num_correct_drafts_per_req: list[int],
        batch_size: int,
        num_steps: int | None = None,
    ) -> int | None:
        slot = self._slot(batch_size)
        before = slot.decide(None)
        slot.learn(sum(num_correct_drafts_per_req) / len(num_correct_drafts_per_req))
        after = slot.decide(None)
        return after.length if after != before else None

    def _slot(self, batch_size: int) -> SglangTiers:
        return self._slots[min(self._slots, key=lambda size: abs(size - batch_size))]


class LearnedSteps(_Graphs):
    """A trained actor that observes the batch's mean acceptance and its drafting costs.

    After `PROBE` rounds without a draft it tries the shortest draft, to learn about acceptance.
    """

    def __init__(self, bundle: PolicyBundle, costs: BatchCosts) -> None:
        self._policy: LearnedPolicy = bundle.controller()
        self.spec: ObservationSpec = bundle.spec
        self.costs = costs
        self.candidate_steps = sorted({action.length for action in bundle.actions})
        points = bundle.profile.points
        self._context = float(points[len(points) // 2].context)
        self._features: dict[int, CostFeatures] = {}
        self._observer = Observer(bundle.spec, self._costs_of(1))
        self._rows, self._plain = 1, 0
        self._steps = self._decide()

    @classmethod
    def load(cls, folder: Path) -> "LearnedSteps":
        """Load from an export's folder. Nothing in it is executed."""
        folder = Path(folder)
        return cls(load_bundle(folder / POLICY), BatchCosts.load(folder / COSTS))

    def get_steps_for_batch(self, batch_size: int) -> int:
        """The number of steps for all requests of the batch."""
        if batch_size != self._rows:
            self._rows = batch_size
            self._observer.set_costs(self._costs_of(batch_size).values())
            self._steps = self._decide()
        return self._steps

    def on_verify_complete(
        self,
        num_correct_drafts_per_req: list[int],
        batch_size: int,
        num_steps: int | None = None,
    ) -> int | None:
        """Take in a round; returns the new number of steps, or None if it stays."""
        before = self.get_steps_for_batch(batch_size)
        drafted = before if num_steps is None else num_steps
        count = len(num_correct_drafts_per_req)
        accepted = sum(num_correct_drafts_per_req) / count
        reached = sum(min(kept + 1, drafted) for kept in num_correct_drafts_per_req) / count
        one = np.ones(1)
        self._observer.update(
            RoundArrays(
                drafted=one * drafted,
                accepted=one * accepted,
                reached=one * reached,
                emitted=one * (accepted + 1),
                target=np.zeros((1, 2)),
                draft=np.zeros((1, 5)),
                text=np.zeros((1, 4)),
                drafter=np.zeros(1, dtype=np.int64),
                forecast=np.zeros((1, 2)),
            )
        )
        self._plain = 0 if drafted else self._plain + 1
        self._steps = self._decide()
        return self._steps if self._steps != before else None

    def _decide(self) -> int:
        if self._plain >= PROBE:
            return min((step for step in self.candidate_steps if step), default=0)
        return self._policy.decide(self._observer.observation()[0]).length

    def _costs_of(self, rows: int) -> CostFeatures:
        found = self._features.get(rows)
        if found is None:
            found = self._features[rows] = self.costs.features(rows, self._context)
        return found


class AdaptiveSteps(BatchRule):
    """Replays an SGLang policy: one number of steps for all rows."""

    name = "sglang"

    def __init__(self, policy: StepsPolicy, observes: ObservationSpec | None = None) -> None:
        """`observes` is given only so that a learned policy's time is counted."""
        self._policy, self.observes = policy, observes

    def decide(
        self, rows: Sequence[int], observations: np.ndarray | None, load: Load
    ) -> list[Action]:
        steps = self._policy.get_steps_for_batch(len(rows))
        return [Action(steps) if steps else FALLBACK] * len(rows)

    def observe(self, rows: Sequence[int], rounds: Sequence[Round], seconds: float) -> None:
        accepted = [round_.accepted for round_ in rounds]
        drafted = max(round_.drafted for round_ in rounds)
        self._policy.on_verify_complete(accepted, len(rows), drafted)


def config_text(config: Mapping[str, Any]) -> str:
    """The file for `--speculative-adaptive-config`."""
    return json.dumps(config, indent=2) + "\n"
