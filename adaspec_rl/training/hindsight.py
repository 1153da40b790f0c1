"""The full-information baseline: learn from the recorded outcomes of all actions at once.

A network regresses the reward of every action on the observation. Taking its best action is the
marginal rule: draft another token as long as its expected gain exceeds its cost.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from adaspec_rl.config import AgentConfig
from adaspec_rl.control.learned import Actor
from adaspec_rl.envs.vector import ReplayGame
from adaspec_rl.training.divergence import check_converging

PASSES = 2  # the second pass learns from the states that the first pass's policy visits
EXPLORATION = 0.3  # share of random actions while collecting
TRIAL = 64  # rounds of every stream in which a pass's speedup is measured


def fit_hindsight(
    game: ReplayGame,
    config: AgentConfig,
    seed: int,
    progress: Callable[[float], None] = lambda share: None,
) -> Actor:
    """Learn every action's reward at `total_steps` states; the same seed gives the same actor.

    The preferences of the returned actor are expected rewards.

    Raises:
        ValueError: training diverged.
    """
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    features, actions = game.observation_space.shape[0], int(game.action_space.n)
    actor: Actor | None = None
    network = nn.Sequential()
    for turn in range(PASSES):
        inputs, rewards = _collect(game, actor, config.total_steps // PASSES, rng)
        network = network_of([features, *config.hidden, actions], generator)
        regress(network, inputs, rewards, config, generator)
        actor = actor_of(network)
        check_converging(actor, config)
        if turn + 1 < PASSES:
            _raise_rates(game, actor)
        progress((turn + 1) / PASSES)
    assert actor is not None
    return actor


def _raise_rates(game: ReplayGame, actor: Actor) -> None:
    """Raise the reward's λ to the speedup that this actor reaches, for the next pass."""
    streams = game.streams
    worth = cost = 0.0
    observation = game.reset()
    for _ in range(TRIAL):
        rates = streams.rates[streams.profile]
        observation, _, played, _ = game.step(actor(observation).argmax(axis=1))
        worth += float((played.emitted / rates).sum())
        cost += float(played.steps.sum())
    streams.rates *= max(1.0, worth / cost)


def _collect(
    game: ReplayGame, actor: Actor | None, steps: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """States `[N, F]` under a policy with exploration, and all rewards there `[N, A]`."""
    streams, actions = game.streams.streams, int(game.action_space.n)
    observation = game.reset()
    inputs, rewards = [], []
    for _ in range(max(1, steps // streams)):
        emitted, cost = game.streams.every_outcome()
        rates = game.streams.rates[game.streams.profile]
        inputs.append(observation)
        rewards.append((emitted / rates[:, None] - cost).astype(np.float32))
        chosen = rng.integers(actions, size=streams)
        if actor is not None:
            explore = rng.random(streams) < EXPLORATION
            chosen = np.where(explore, chosen, actor(observation).argmax(axis=1))
        observation = game.step(chosen)[0]
    return np.concatenate(inputs), np.concatenate(rewards)


def network_of(widths: list[int], generator: torch.Generator) -> nn.Sequential:
    """A fresh tanh network of layers of these widths."""
    layers: list[nn.Module] = []
    for before, after in zip(widths, widths[1:]):
        linear = nn.Linear(before, after)
        nn.init.normal_(linear.weight, std=before**-0.5, generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def regress(
    network: nn.Sequential,
    inputs: np.ndarray,
    answers: np.ndarray,
    config: AgentConfig,
    generator: torch.Generator,
) -> None:
    """Fit answers `[N, A]` to inputs `[N, F]` by least squares."""
    x, y = torch.from_numpy(np.ascontiguousarray(inputs)), torch.from_numpy(answers)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    steps = config.n_epochs * -(-len(x) // config.batch_size)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=steps)
    for _ in range(config.n_epochs):
        for batch in torch.randperm(len(x), generator=generator).split(config.batch_size):
            loss = ((network(x[batch]) - y[batch]) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def actor_of(network: nn.Sequential) -> Actor:
    """The network as NumPy arrays."""
    linear = [module for module in network if isinstance(module, nn.Linear)]
    return Actor(
        tuple(module.weight.detach().numpy().T.copy() for module in linear),
        tuple(module.bias.detach().numpy().copy() for module in linear),
    )
