"""Training that diverges ends in one sentence, and leaves nothing behind that is not finite."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback

from adaspec_rl.config import AgentConfig
from adaspec_rl.control.action import action_list
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.envs.stable_baselines import AdaSpecVecEnv
from adaspec_rl.envs.vector import ReplayGame
from adaspec_rl.replay.streams import ReplayTables
from adaspec_rl.training.hindsight import fit_hindsight
from adaspec_rl.training.ppo import (
    actor_of,
    learn_until_the_end,
    load_checkpoint,
    new_ppo,
    save_checkpoint,
)
from tests.recording.recordings import profile, toy_trace

SMALL = AgentConfig(total_steps=256, n_steps=8, batch_size=32, n_epochs=2, hidden=[8])
DIVERGED = r"^training diverged, .* lower agent\.learning_rate \(now 1e\+30\)"


class Nothing(BaseCallback):
    def _on_step(self) -> bool:
        return True


@pytest.fixture
def game(tmp_path) -> ReplayGame:
    costs = profile(0)
    return ReplayGame(
        ReplayTables(toy_trace(tmp_path), action_list("length", 4, 2)),
        ObservationSpec(max_length=4, vocab_size=8, drafters=2),
        [costs.contexts()],
        policy=[costs.policy],
        streams=4,
    )


def test_regression_that_diverges_is_refused(game):
    assert fit_hindsight(game, SMALL, seed=0).finite
    with pytest.raises(ValueError, match=DIVERGED) as caught:
        fit_hindsight(game, replace(SMALL, learning_rate=1e30), seed=0)
    assert "\n" not in str(caught.value)


def test_ppo_that_diverges_is_refused(game):
    config = replace(SMALL, learning_rate=1e30)
    with pytest.raises(ValueError, match=DIVERGED) as caught:
        learn_until_the_end(new_ppo(AdaSpecVecEnv(game), config, seed=0), config, Nothing())
    assert "\n" not in str(caught.value)


def test_checkpoints_that_are_not_finite_are_refused(game, tmp_path):
    agent = new_ppo(AdaSpecVecEnv(game), SMALL, seed=0)
    learn_until_the_end(agent, SMALL, Nothing())
    assert agent.num_timesteps == 256 and actor_of(agent).finite
    with torch.no_grad():
        agent.policy.value_net.bias.fill_(np.nan)
    save_checkpoint(agent, tmp_path / "step_256.pt", {})
    with pytest.raises(ValueError, match="not finite numbers.*: delete it, and resume"):
        load_checkpoint(agent, tmp_path / "step_256.pt")
