"""Training one model, resumable at any moment: each step depends on (seed, step) alone."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from adaspec_rl.console import progress, standard_output
from adaspec_rl.files import new_file

SAVE_EVERY = 100  # steps


@dataclass(frozen=True, slots=True)
class Schedule:
    """How one model is trained. Lengths in tokens, `decay` as a share of the steps."""

    steps: int
    rows: int
    length: int
    learning_rate: float
    warmup: int = 50
    decay: float = 0.4

    def rate(self, step: int) -> float:
        """Learning rate at `step`: linear warm-up, constant, linear decay to 0."""
        rising = (step + 1) / self.warmup
        falling = (self.steps - step) / max(1.0, self.decay * self.steps)
        return self.learning_rate * min(1.0, rising, falling)


Model = TypeVar("Model", bound=nn.Module)
Batch = TypeVar("Batch")
Made = TypeVar("Made", covariant=True)
Loss = Callable[[Model, Batch], tuple[torch.Tensor, torch.Tensor]]  # objective, metric
Judge = Callable[[], dict[str, Any]]  # figures of the current model, for JSON


class Batches(Protocol[Made]):
    """The batches that a model is trained on."""

    def batch(self, seed: int, step: int, rows: int, length: int) -> Made:
        """`rows` windows of `length` tokens that depend on (seed, step) alone."""
        ...


@dataclass(frozen=True, slots=True)
class Trained:
    """The result of a training: means over the last 5% of the steps, and the judge's figures."""

    objective: float
    metric: float
    tokens: int
    seconds: float
    judged: list[dict[str, Any]]

    @property
    def figures(self) -> dict[str, float]:
        """All figures except the judge's."""
        return {key: getattr(self, key) for key in ("objective", "metric", "tokens", "seconds")}


def train(
    name: str,
    model: Model,
    loss: Loss[Model, Batch],
    batches: Batches[Batch],
    schedule: Schedule,
    checkpoint: Path,
    seed: int,
    *,
    steppers: Sequence[torch.optim.Optimizer],
    precision: str,
    judge: Judge = dict,
) -> Trained:
    """Train `model` in place, resuming from `checkpoint` if it exists.

    Args:
        precision: `bf16` rounds the factors of products to bfloat16, `float32` does not.
        judge: called before the first step, at every checkpoint, and at the end.
    """
    device = next(model.parameters()).device
    state = _resume(model, steppers, checkpoint)
    start, before, history = state["step"], state["seconds"], state["history"]
    judged = state["judged"] or [{"step": 0, **judge()}]
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
    model.train()
    elapsed = before
    with progress(standard_output(), name) as update:
        began = time.perf_counter()
        for step in range(start, schedule.steps):
            with autocast:
                objective, metric = loss(
                    model, batches.batch(seed, step, schedule.rows, schedule.length)
                )
            objective.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for stepper in steppers:
                for group in stepper.param_groups:
                    group["lr"] = schedule.rate(step)
                stepper.step()
                stepper.zero_grad(set_to_none=True)
            history.append((float(objective.detach()), float(metric.detach())))
            done, elapsed = step + 1, before + time.perf_counter() - began
            speed = (done - start) * schedule.rows * schedule.length / (elapsed - before)
            update(done, schedule.steps, f"{_recent(history)}, {speed:,.0f} tokens/s")
            if done % SAVE_EVERY == 0 or done == schedule.steps:
                model.eval()
                judged.append({"step": done, **judge()})
                model.train()
                _save(model, steppers, checkpoint, done, elapsed, history, judged)
    model.eval()
    tail = history[-max(1, schedule.steps // 20) :]
    return Trained(
        objective=sum(objective for objective, _ in tail) / len(tail),
        metric=sum(metric for _, metric in tail) / len(tail),
        tokens=schedule.steps * schedule.rows * schedule.length,
        seconds=elapsed,
        judged=judged,
    )


def _recent(history: Sequence[tuple[float, float]]) -> str:
    tail = history[-50:]
    objective, metric = (sum(column) / len(tail) for column in zip(*tail))
    return f"objective {objective:.3f}, metric {metric:.3f}"


def _save(
    model: nn.Module,
    steppers: Sequence[torch.optim.Optimizer],
    path: Path,
    step: int,
    seconds: float,
    history: list[tuple[float, float]],
    judged: list[dict[str, Any]],
) -> None:
    state = {
        "model": model.state_dict(),
        "optimizers": [stepper.state_dict() for stepper in steppers],
        "step": step,
        "seconds": seconds,
        "history": history,
        "judged": judged,
    }
    with new_file(path) as fresh:
        torch.save(state, fresh)


def _resume(
    model: nn.Module, steppers: Sequence[torch.optim.Optimizer], path: Path
) -> dict[str, Any]:
    if not path.exists():
        return {"step": 0, "seconds": 0.0, "history": [], "judged": []}
    state: dict[str, Any] = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for stepper, saved in zip(steppers, state["optimizers"], strict=True):
        stepper.load_state_dict(saved)
    return state
