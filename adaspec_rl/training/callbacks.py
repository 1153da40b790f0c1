"""What happens beside PPO's own steps: λ, the best policy, checkpoints, display, loggers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from adaspec_rl.control.learned import Actor
from adaspec_rl.envs.reward import Reward
from adaspec_rl.training.ppo import actor_of, save_checkpoint
from adaspec_rl.training.progress import Window


class TrainingMonitor(BaseCallback):
    """Follows the policy as it learns.

    Every `checkpoint_steps`, between two rollouts: judges the policy (`validate`), raises the
    reward's λ to the best speedup found (Dinkelbach's iteration), hands a new best actor to
    `on_best`, and saves a checkpoint.
    """

    def __init__(
        self,
        reward: Reward,
        total_steps: int,
        checkpoints: Path,
        checkpoint_steps: int,
        validate: Callable[[Actor], float],
        on_best: Callable[[Actor, float, int], None],
        console: Console,
    ) -> None:
        """`validate` returns a speedup; it may use the environment's session."""
        super().__init__()
        self.reward = reward
        self.total_steps = total_steps
        self.checkpoints = checkpoints
        self.checkpoint_steps = checkpoint_steps
        self.validate = validate
        self.on_best = on_best
        self.window = Window(reward.autoregressive_step)
        self.best = 0.0
        self._judged = 0
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            refresh_per_second=4,
        )

    @property
    def agent(self) -> PPO:
        """The agent in training."""
        assert isinstance(self.model, PPO)
        return self.model

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps of this monitor."""
        return {"rate": self.reward.rate, "best": self.best}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from a checkpoint's state."""
        self.reward.rate, self.best = state["rate"], state["best"]

    def _on_training_start(self) -> None:
        self._judged = self.num_timesteps
        self._progress.start()
        self._task = self._progress.add_task("", total=self.total_steps, status="")

    def _on_step(self) -> bool:
        for info, reward in zip(self.locals["infos"], self.locals["rewards"]):
            played = info["round"]
            self.window.add(len(played.tokens), played.drafted, info["seconds"], float(reward))
        if self.num_timesteps % 32 == 0:
            self._show()
        return True

    def _on_rollout_end(self) -> None:
        for name, value in self._figures().items():
            self.logger.record(f"adaspec/{name}", value)
        if self.num_timesteps - self._judged >= self.checkpoint_steps:
            self._judge()
            # The session was used for other texts: begin a new episode.
            self.agent._last_obs = self.training_env.reset()  # type: ignore[assignment]
            self.agent._last_episode_starts = np.ones(self.training_env.num_envs, dtype=bool)

    def _on_training_end(self) -> None:
        if self.num_timesteps > self._judged:
            self._judge()
        self._show()
        self._progress.stop()

    def _judge(self) -> None:
        self._judged = self.num_timesteps
        actor = actor_of(self.agent)
        speedup = self.validate(actor)
        self.logger.record("adaspec/validation_speedup", speedup)
        self.reward.rate = max(self.reward.rate, speedup)
        if speedup > self.best:
            self.best = speedup
            self.on_best(actor, speedup, self.num_timesteps)
        path = self.checkpoints / f"step_{self.num_timesteps}.pt"
        save_checkpoint(self.agent, path, self.state())

    def stop_display(self) -> None:
        """Give the terminal back, also after an interruption."""
        self._progress.stop()

    def _figures(self) -> dict[str, Any]:
        return {
            "reward": self.window.reward,
            "speedup": self.window.speedup,
            "draft_length": self.window.draft_length,
            "rate": self.reward.rate,
            "best": self.best,
        }

    def _show(self) -> None:
        figures = self._figures()
        task = self._progress.tasks[0]
        speed = f"{task.speed:,.0f}/s" if task.speed else ""
        self._progress.update(
            self._task,
            completed=self.num_timesteps,
            status=f"reward {figures['reward']:+.3f} speedup {figures['speedup']:.2f} "
            f"best {self.best:.2f} draft {figures['draft_length']:.1f} {speed}",
        )
