"""What happens around PPO's updates: λ, the best policy, checkpoints, display, loggers."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from adaspec_rl.console import Update
from adaspec_rl.control.learned import Actor
from adaspec_rl.training.ppo import actor_of, save_checkpoint
from adaspec_rl.training.progress import Window


@dataclass(frozen=True, slots=True)
class Verdict:
    """A policy on the withheld texts."""

    score: float  # the criterion for the best policy
    speedup: float  # mean over the cost profiles


class TrainingMonitor(BaseCallback):
    """Follows the policy as it learns.

    Every `checkpoint_steps`, between two rollouts, it judges the policy, hands a new best actor to
    `on_best`, saves a checkpoint, and restarts all random generators and all texts from the seed
    and the step. A resumed run therefore continues exactly as the uninterrupted run would have.
    """

    def __init__(
        self,
        *,
        total_steps: int,
        checkpoints: Path,
        checkpoint_steps: int,
        seed: int,
        judge: Callable[[Actor], Verdict],
        reseed: Callable[[int], None],
        rounds: Callable[[dict[str, Any]], np.ndarray],
        on_best: Callable[[Actor, Verdict, int], None],
        progress: Update,
    ) -> None:
        """
        Args:
            judge: judges an actor, and updates the reward's λ accordingly.
            reseed: restarts the environment's randomness.
            rounds: from the local variables of a rollout, the last rounds' emitted, drafted and
                steps, `[B, 3]`.
            progress: shows the figures as they change.
        """
        super().__init__()
        self.total_steps = total_steps
        self.checkpoints = checkpoints
        self.checkpoint_steps = checkpoint_steps
        self.seed = seed
        self.judge, self.reseed, self.rounds, self.on_best = judge, reseed, rounds, on_best
        self.window = Window()
        self.best: tuple[Actor, Verdict, int] | None = None
        self._judged = -1
        self._progress = progress

    @property
    def agent(self) -> PPO:
        """The agent in training."""
        assert isinstance(self.model, PPO)
        return self.model

    def state(self) -> dict[str, Any]:
        """The monitor's state, as a checkpoint saves it."""
        assert self.best is not None
        actor, verdict, steps = self.best
        arrays = {
            "weights": [torch.from_numpy(array) for array in actor.weights],
            "biases": [torch.from_numpy(array) for array in actor.biases],
        }
        return {**arrays, "score": verdict.score, "speedup": verdict.speedup, "steps": steps}

    def restore(self, state: dict[str, Any], step: int) -> None:
        """Go on from a checkpoint's state."""
        actor = Actor(
            tuple(tensor.numpy() for tensor in state["weights"]),
            tuple(tensor.numpy() for tensor in state["biases"]),
        )
        self.best = (actor, Verdict(state["score"], state["speedup"]), state["steps"])
        self._judged = step
        self.judge(actor)  # moves λ to where it was
        self.on_best(*self.best)

    def _on_training_start(self) -> None:
        self._began = time.perf_counter(), self.num_timesteps
        self._show()
        if self._judged == self.num_timesteps:  # resumed
            self._refresh()

    def _on_rollout_start(self) -> None:
        if self._judged < 0 or self.num_timesteps - self._judged >= self.checkpoint_steps:
            self._judge()
            path = self.checkpoints / f"step_{self.num_timesteps}.pt"
            save_checkpoint(self.agent, path, self.state())
            self._refresh()

    def _refresh(self) -> None:
        """Restart all random generators and all texts from the seed and the step."""
        seed = (self.seed * 1_000_003 + self.num_timesteps) % 2**31
        torch.manual_seed(seed)
        np.random.seed(seed)
        self.reseed(seed)
        self.agent._last_obs = self.training_env.reset()  # type: ignore[assignment]
        self.agent._last_episode_starts = np.ones(self.training_env.num_envs, dtype=bool)

    def _on_step(self) -> bool:
        self.window.add(self.rounds(self.locals), self.locals["rewards"])
        return True

    def _on_rollout_end(self) -> None:
        for name, value in self._figures().items():
            self.logger.record(f"adaspec/{name}", value)
        self._show()

    def _on_training_end(self) -> None:
        if self.num_timesteps > self._judged:
            self._judge()
        self._show()

    def _judge(self) -> None:
        self._judged = self.num_timesteps
        actor = actor_of(self.agent)
        verdict = self.judge(actor)
        self.logger.record("adaspec/validation_speedup", verdict.speedup)
        if self.best is None or verdict.score > self.best[1].score:
            self.best = (actor, verdict, self.num_timesteps)
            self.on_best(*self.best)

    def _figures(self) -> dict[str, float]:
        return {
            "reward": self.window.reward,
            "speedup": self.window.speedup,
            "draft_length": self.window.draft_length,
            "best": self.best[1].speedup if self.best else 0.0,
        }

    def _show(self) -> None:
        figures = self._figures()
        since, before = self._began
        speed = (self.num_timesteps - before) / (time.perf_counter() - since)
        self._progress(
            self.num_timesteps,
            self.total_steps,
            status=f"reward {figures['reward']:+.3f} speedup {figures['speedup']:.2f} "
            f"best {figures['best']:.2f} draft {figures['draft_length']:.1f} {speed:,.0f}/s",
        )
