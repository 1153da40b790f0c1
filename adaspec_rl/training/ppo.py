"""PPO from Stable-Baselines3, with checkpoints that load without pickle."""

import os
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from stable_baselines3 import PPO

from adaspec_rl.config import AgentConfig
from adaspec_rl.control.learned import Actor


def check_agent(config: AgentConfig) -> None:
    """Refuse settings that do not fit together, before anything slow begins."""
    if config.n_steps % config.batch_size:
        raise ValueError(
            f"agent.batch_size must divide agent.n_steps ({config.n_steps}), "
            f"got {config.batch_size}"
        )


def new_ppo(env: gym.Env, config: AgentConfig, seed: int) -> PPO:
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


def actor_of(agent: PPO) -> Actor:
    """The agent's actor network as NumPy arrays."""
    modules = [*agent.policy.mlp_extractor.policy_net, agent.policy.action_net]
    linear = [module for module in modules if isinstance(module, torch.nn.Linear)]
    return Actor(
        tuple(module.weight.detach().numpy().T.copy() for module in linear),
        tuple(module.bias.detach().numpy().copy() for module in linear),
    )


def save_checkpoint(agent: PPO, path: Path, extra: dict[str, Any]) -> None:
    """Write the agent's weights, optimiser and step count, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "policy": agent.policy.state_dict(),
        "optimizer": agent.policy.optimizer.state_dict(),
        "steps": agent.num_timesteps,
        "extra": extra,
    }
    temporary = path.with_name(path.name + ".partial")
    torch.save(state, temporary)
    os.replace(temporary, path)


def load_checkpoint(agent: PPO, path: Path) -> dict[str, Any]:
    """Put the agent where `save_checkpoint` left it; returns `extra`."""
    try:
        state = torch.load(path, weights_only=True)
        agent.policy.load_state_dict(state["policy"])
        agent.policy.optimizer.load_state_dict(state["optimizer"])
    except Exception as error:  # torch raises many kinds for a damaged or foreign file
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"the checkpoint {path} does not fit this run: {first}") from None
    agent.num_timesteps = state["steps"]
    return state["extra"]


def latest_checkpoint(run: Path) -> Path:
    """The checkpoint with most steps in a run's folder."""
    found = sorted(
        (run / "checkpoints").glob("step_*.pt"), key=lambda path: int(path.stem.split("_")[1])
    )
    if not found:
        raise ValueError(f"{run} has no checkpoints to resume from: set resume to a run's folder")
    return found[-1]
