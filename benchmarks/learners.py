"""PPO or regression? `python benchmarks/learners.py --seeds 5 --json FILE`.

Several learners get the same replayed texts, features, network and numbers of rounds. Their
policies are replayed on held-out prompts as they learn:

* `regression`: full information, every action's recorded reward at each state (`agent=hindsight`);
* `bandit`: the same network, given only the reward of its own action (epsilon-greedy);
* `ppo`, `ppo_planning`: PPO that looks one round ahead (gamma 0), and further (gamma 0.9);
* `ppo_warm`: PPO that starts from a regression on a fifth of the rounds;
* `dqn`, `dqn_planning`: deep Q-learning, likewise.

With `--catch-up X`, reading a token that a drafter missed costs X plain steps. A change of drafter
then has to pay for itself in later rounds, so looking beyond the round should help.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from policy import HeldOut, Place, interval
from report import finish
from rich.console import Console
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from torch import nn

from adaspec_rl.config import AgentConfig, TrainConfig
from adaspec_rl.control.learned import Actor
from adaspec_rl.costs.profile import CostProfile
from adaspec_rl.envs.stable_baselines import AdaSpecVecEnv
from adaspec_rl.envs.vector import ReplayGame
from adaspec_rl.from_config import set_threads
from adaspec_rl.replay.streams import ReplayTables
from adaspec_rl.training.hindsight import EXPLORATION, fit_hindsight, network_of
from adaspec_rl.training.hindsight import actor_of as regression_actor
from adaspec_rl.training.judge import fixed_speedups
from adaspec_rl.training.ppo import SHARPNESS, actor_of, new_ppo, warm_start
from adaspec_rl.training.train import Task

CHECKS = 8  # points of a curve
PLANNING = 0.9
Point = tuple[int, float, float]  # rounds, seconds, speedup on held-out texts


@dataclass(frozen=True, slots=True)
class Lesson:
    """The input of every learner."""

    config: AgentConfig
    game: ReplayGame
    judge: Callable[[Actor], float]
    rounds: int  # the budget
    seed: int


class Curve(BaseCallback):
    """Judges a Stable-Baselines3 agent at regular intervals, without counting the judging time."""

    def __init__(self, lesson: Lesson, actor: Callable[[Any], Actor], used: int = 0) -> None:
        super().__init__()
        self.lesson, self.actor, self.used = lesson, actor, used
        self.points: list[Point] = []
        self.began, self.judging = time.perf_counter(), 0.0

    def _on_step(self) -> bool:
        if self.num_timesteps >= (len(self.points) + 1) * (self.lesson.rounds - self.used) / CHECKS:
            self.judge()
        return True

    def judge(self) -> None:
        """Add a point to the curve."""
        now = time.perf_counter()
        speedup = self.lesson.judge(self.actor(self.model))
        rounds = self.num_timesteps + self.used
        self.points.append((rounds, now - self.began - self.judging, speedup))
        self.judging += time.perf_counter() - now


def ppo(lesson: Lesson, gamma: float = 0.0, warm: bool = False) -> list[Point]:
    """Proximal policy optimisation."""
    config = replace(lesson.config, gamma=gamma, gae_lambda=1.0 if gamma == 0 else 0.95)
    began, used = time.perf_counter(), 0
    agent = new_ppo(AdaSpecVecEnv(lesson.game), config, lesson.seed)
    if warm:
        used = lesson.rounds // 5
        start = fit_hindsight(lesson.game, _regression(config, used), lesson.seed)
        warm_start(agent, start, SHARPNESS)
    curve = Curve(lesson, actor_of, used)
    curve.began = began
    agent.learn(lesson.rounds - used, callback=curve)
    return curve.points


def dqn(lesson: Lesson, gamma: float = 0.0) -> list[Point]:
    """Deep Q-learning (Mnih et al., 2015); four gradient steps for each round of all streams."""
    streams = lesson.game.streams.streams
    agent = DQN(
        "MlpPolicy",
        AdaSpecVecEnv(lesson.game),
        learning_rate=lambda remaining: lesson.config.learning_rate * remaining,
        buffer_size=200_000,
        learning_starts=4 * streams,
        batch_size=1024,
        gamma=gamma,
        train_freq=1,
        gradient_steps=4,
        target_update_interval=streams * 8,
        exploration_fraction=0.5,
        policy_kwargs={"net_arch": list(lesson.config.hidden), "activation_fn": nn.Tanh},
        device="cpu",
        seed=lesson.seed,
    )
    curve = Curve(lesson, lambda model: regression_actor(model.policy.q_net.q_net))
    agent.learn(lesson.rounds, callback=curve)
    return curve.points


def regression(lesson: Lesson) -> list[Point]:
    """Every action's recorded reward, fitted with more and more rounds."""
    points = []
    for part in range(1, CHECKS + 1):
        rounds = lesson.rounds * part // CHECKS
        began = time.perf_counter()
        actor = fit_hindsight(lesson.game, _regression(lesson.config, rounds), lesson.seed)
        points.append((rounds, time.perf_counter() - began, lesson.judge(actor)))
    return points


def bandit(lesson: Lesson) -> list[Point]:
    """A contextual bandit: the reward of the action taken, fitted as it comes."""
    game, config = lesson.game, lesson.config
    generator, rng = torch.Generator().manual_seed(lesson.seed), np.random.default_rng(lesson.seed)
    actions, streams = int(game.action_space.n), game.streams.streams
    network = network_of([game.observation_space.shape[0], *config.hidden, actions], generator)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    observation, points = game.reset(), []
    turns = lesson.rounds // streams
    seconds, began = 0.0, time.perf_counter()
    for turn in range(1, turns + 1):
        x = torch.from_numpy(observation)
        with torch.no_grad():
            chosen = network(x).argmax(dim=1).numpy()
        chosen = np.where(
            rng.random(streams) < EXPLORATION, rng.integers(actions, size=streams), chosen
        )
        observation, rewards, _, _ = game.step(chosen)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * max(0.02, 1 - turn / turns)
        for _ in range(config.n_epochs):
            told = network(x)[torch.arange(streams), torch.from_numpy(chosen)]
            loss = ((told - torch.from_numpy(rewards)) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if turn >= (len(points) + 1) * turns / CHECKS:
            seconds += time.perf_counter() - began
            points.append((turn * streams, seconds, lesson.judge(regression_actor(network))))
            began = time.perf_counter()
    return points


LEARNERS: dict[str, Callable[[Lesson], list[Point]]] = {
    "regression": regression,
    "bandit": bandit,
    "ppo": ppo,
    "ppo_planning": lambda lesson: ppo(lesson, PLANNING),
    "ppo_warm": lambda lesson: ppo(lesson, warm=True),
    "dqn": dqn,
    "dqn_planning": lambda lesson: dqn(lesson, PLANNING),
}


def _regression(config: AgentConfig, rounds: int) -> AgentConfig:
    return replace(config, name="hindsight", total_steps=rounds, learning_rate=3e-3, n_epochs=8)


def with_catch_up(profile: CostProfile, steps: float) -> CostProfile:
    """The same machine, where reading a token that a drafter missed costs `steps` plain steps."""
    costs = tuple(
        replace(point, catch_up=tuple(steps * point.autoregressive_step for _ in point.catch_up))
        for point in profile.points
    )
    return replace(profile, points=costs)


def lesson_of(config: TrainConfig, task: Task, held: HeldOut, rounds: int, seed: int) -> Lesson:
    """Fresh streams for one learner."""
    points = [task.profile.contexts(config.cost.batch_size)]
    game = ReplayGame(
        ReplayTables(task.trace, task.actions),
        task.spec,
        points,
        policy=[task.profile.policy],
        streams=config.env.streams,
        reward=config.env.reward,
        seed=seed,
    )
    fixed = fixed_speedups(task.trace, points, config.env.max_length)
    game.streams.rates[:] = np.maximum(1.0, fixed * 1.1)  # one reward for all learners
    return Lesson(config.agent, game, lambda actor: held.speedup(actor, task), rounds, seed)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=1_000_000, help="budget of each learner")
    parser.add_argument("--prompts", type=int, help="held out, a domain; all by default")
    parser.add_argument("--catch-up", type=float, help="plain steps for each token missed")
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=list(LEARNERS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", help="as for train_policy.py")
    options = parser.parse_intermixed_args(arguments)
    set_threads(None)
    console = Console()
    place = Place.of(options.overrides, options.prompts, console)
    config, task = place.config, place.task
    if options.catch_up is not None:
        task = replace(task, profile=with_catch_up(task.profile, options.catch_up))
    held = HeldOut.of(place.held.trace, task.profile)
    curves: dict[str, list[list[Point]]] = {name: [] for name in options.learners}
    for seed in range(options.seeds):
        for name in options.learners:
            lesson = lesson_of(config, task, held, options.rounds, seed)
            curves[name].append(LEARNERS[name](lesson))
            rounds, seconds, speedup = curves[name][-1][-1]
            console.print(
                f"seed {seed}, {name}: {speedup:.3f} x after {rounds:,} rounds, {seconds:.1f} s"
            )
    figures, details = {}, {}
    for name, seeds in curves.items():
        mean, low, high = interval([points[-1][2] for points in seeds])
        figures[f"{name}_speedup"] = mean
        figures[f"{name}_vs_best_fixed"] = mean / held.best_fixed
        details[name] = {"mean": mean, "ci95": [low, high], "curves": seeds}
    found = {
        "best_fixed": held.best_fixed,
        "best_action": str(held.best_action),
        "oracle": held.oracle,
        "learners": details,
        "cost_profile": task.profile.to_dict(),
    }
    finish(figures, options.json, details={"details": found})


if __name__ == "__main__":
    main()
