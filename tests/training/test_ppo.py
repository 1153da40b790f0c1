"""Checkpoints: what was saved comes back, and what is damaged or foreign is refused."""

from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

from adaspec_rl.config import AgentConfig
from adaspec_rl.training.ppo import latest_checkpoint, load_checkpoint, new_ppo, save_checkpoint


class Nothing(gymnasium.Env):
    """An environment in which nothing happens."""

    def __init__(self, features: int) -> None:
        self.observation_space = gymnasium.spaces.Box(-1, 1, (features,))
        self.action_space = gymnasium.spaces.Discrete(3)

    def reset(self, seed=None, options=None):
        return np.zeros(self.observation_space.shape, np.float32), {}

    def step(self, action):
        return self.reset()[0], 0.0, True, False, {}


def agent(features: int = 4):
    config = AgentConfig(n_steps=8, batch_size=8, hidden=[8])
    return new_ppo(DummyVecEnv([lambda: Nothing(features)]), config, 0)


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    path = tmp_path / "checkpoints" / "step_8.pt"
    made = agent()
    made.learn(8)
    save_checkpoint(made, path, {"score": 1.5})
    return path


def test_a_checkpoint_brings_everything_back(checkpoint):
    other = agent()
    assert load_checkpoint(other, checkpoint) == {"score": 1.5}
    assert other.num_timesteps == 8
    again = checkpoint.with_name("again.pt")
    save_checkpoint(other, again, {"score": 1.5})
    first, second = (torch.load(path, weights_only=True) for path in (checkpoint, again))
    for name, tensor in first["policy"].items():
        assert torch.equal(tensor, second["policy"][name])
    assert [file.name for file in checkpoint.parent.iterdir() if file.suffix != ".pt"] == []


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_checkpoint_is_one_sentence(checkpoint, share):
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"step_8.pt is damaged \(.+\): delete it, and resume"):
        load_checkpoint(agent(), checkpoint)


def test_a_flipped_bit_in_the_weights_is_seen(checkpoint):
    content = bytearray(checkpoint.read_bytes())
    weight = agent_bytes(checkpoint)
    content[content.index(weight) + 2] ^= 1
    checkpoint.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        load_checkpoint(agent(), checkpoint)


def agent_bytes(path: Path) -> bytes:
    weights = torch.load(path, weights_only=True)["policy"]
    return weights["mlp_extractor.policy_net.0.weight"].numpy().tobytes()


def test_something_else_is_no_checkpoint(checkpoint):
    torch.save({"weights": torch.zeros(2)}, checkpoint)
    with pytest.raises(ValueError, match="it is no checkpoint of this version"):
        load_checkpoint(agent(), checkpoint)


def test_a_checkpoint_of_other_features_is_refused_by_name(checkpoint):
    message = r"does not fit this run: mlp_extractor.policy_net.0.weight is \(8, 4\) there and \(8,"
    with pytest.raises(ValueError, match=message):
        load_checkpoint(agent(5), checkpoint)


def test_the_latest_checkpoint_is_the_one_of_most_steps(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    with pytest.raises(ValueError, match="has no checkpoints to resume from"):
        latest_checkpoint(tmp_path)
    for name in ("step_best.pt", "step_.pt", "step_9.pt", "step_10.pt", ".step_11.pt.a.partial"):
        (folder / name).touch()
    assert latest_checkpoint(tmp_path).name == "step_10.pt"
