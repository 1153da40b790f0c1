"""PPO from Stable-Baselines3, with checkpoints that load without pickle."""

import io
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from adaspec_rl.config import AgentConfig
from adaspec_rl.control.learned import Actor
from adaspec_rl.files import write_atomically
from adaspec_rl.training.divergence import check_converging

SHARPNESS = 0.05  # reward differences of this size become preference differences of 1


def new_ppo(env: gym.Env | VecEnv, config: AgentConfig, seed: int) -> PPO:
    """An untrained agent for `env`; actor and critic are separate tanh networks."""
    return PPO(
        "MlpPolicy",
        env,
        learning_rate=lambda remaining: config.learning_rate * remaining,
        n_steps=config.n_steps,
        batch_size=config.batch_size,
        n_epochs=config.n_epochs,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        ent_coef=config.ent_coef,
        clip_range=config.clip_range,
        policy_kwargs={"net_arch": {"pi": list(config.hidden), "vf": list(config.hidden)}},
        device="cpu",
        seed=seed,
    )


def learn_until_the_end(agent: PPO, config: AgentConfig, callback: BaseCallback) -> None:
    """Train until the agent has taken `config.total_steps` steps.

    Raises:
        ValueError: training diverged.
    """
    try:
        left = config.total_steps - agent.num_timesteps
        agent.learn(left, callback=callback, reset_num_timesteps=False)
    except ValueError:  # torch's distributions refuse what is not a number
        check_converging(actor_of(agent), config)
        raise
    check_converging(actor_of(agent), config)


def actor_of(agent: PPO) -> Actor:
    """The agent's actor network as NumPy arrays."""
    modules = [*agent.policy.mlp_extractor.policy_net, agent.policy.action_net]
    linear = [module for module in modules if isinstance(module, torch.nn.Linear)]
    return Actor(
        tuple(module.weight.detach().numpy().T.copy() for module in linear),
        tuple(module.bias.detach().numpy().copy() for module in linear),
    )


def check_start(actor: Actor, widths: Sequence[int]) -> None:
    """Refuse an actor to start from whose layers do not have these widths, observation first.

    Raises:
        ValueError: its network has another shape.
    """
    wanted, found = list(zip(widths, widths[1:])), [weight.shape for weight in actor.weights]
    if wanted != found:
        raise ValueError(
            f"agent.warm_start has a network of {found} but this agent's is {wanted}: "
            "use the same features, actions and agent.hidden"
        )


def warm_start(agent: PPO, actor: Actor, sharpness: float = 1.0) -> None:
    """Copy another actor's weights into the agent; its preferences are divided by `sharpness`.

    Raises:
        ValueError: its network has another shape.
    """
    modules = [*agent.policy.mlp_extractor.policy_net, agent.policy.action_net]
    linear = [module for module in modules if isinstance(module, torch.nn.Linear)]
    check_start(actor, [linear[0].in_features, *(module.out_features for module in linear)])
    with torch.no_grad():
        for module, weight, bias in zip(linear, actor.weights, actor.biases):
            last = module is linear[-1]
            module.weight.copy_(torch.from_numpy(weight.T / (sharpness if last else 1.0)))
            module.bias.copy_(torch.from_numpy(bias / (sharpness if last else 1.0)))


def save_checkpoint(agent: PPO, path: Path, extra: dict[str, Any]) -> None:
    """Write the agent's weights, optimiser and step count, atomically."""
    state = {
        "policy": agent.policy.state_dict(),
        "optimizer": agent.policy.optimizer.state_dict(),
        "steps": agent.num_timesteps,
        "extra": extra,
    }
    content = io.BytesIO()  # on a full disk, torch's own writer does not say what went wrong
    torch.save(state, content)
    write_atomically(path, content.getvalue())


def load_checkpoint(agent: PPO, path: Path) -> dict[str, Any]:
    """Restore the agent that `save_checkpoint` saved; returns `extra`.

    Raises:
        ValueError: the file is damaged, or its agent has another network.
    """
    state = _read_checkpoint(path)
    found = {name: tuple(tensor.shape) for name, tensor in state["policy"].items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in agent.policy.state_dict().items()}
    if found != wanted:
        name = next(name for name in {**wanted, **found} if found.get(name) != wanted.get(name))
        raise ValueError(
            f"the checkpoint {path} does not fit this run: {name} is {found.get(name)} there and "
            f"{wanted.get(name)} here; resume with the features, actions and agent.hidden that it "
            "was trained with"
        )
    agent.policy.load_state_dict(state["policy"])
    agent.policy.optimizer.load_state_dict(state["optimizer"])
    agent.num_timesteps = state["steps"]
    return state["extra"]


def _read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f"the checksum of {damaged} differs")
        state = torch.load(path, weights_only=True)
        if state.keys() != {"policy", "optimizer", "steps", "extra"}:
            raise ValueError("it is no checkpoint of this version")
        if not all(part.isfinite().all() for part in state["policy"].values()):
            raise ValueError("its weights are not finite numbers")
        return state
    except Exception as error:  # zipfile and torch raise many kinds of errors for a damaged file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"the checkpoint {path} is damaged ({reason}): delete it, and resume from the one "
            "before it or begin a new run"
        ) from None


def latest_checkpoint(run: Path) -> Path:
    """The checkpoint with the most steps in a run's folder."""
    found = {
        int(match.group(1)): path
        for path in (run / "checkpoints").glob("step_*.pt")
        if (match := re.fullmatch(r"step_(\d+)\.pt", path.name))
    }
    if not found:
        raise ValueError(f"{run} has no checkpoints to resume from: set resume to a run's folder")
    return found[max(found)]
