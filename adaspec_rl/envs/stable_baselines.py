"""The same streams as a Stable-Baselines3 `VecEnv`."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices

from adaspec_rl.envs.vector import ReplayGame
from adaspec_rl.replay.streams import StreamRounds


class AdaSpecVecEnv(VecEnv):
    """`ReplayGame` with Stable-Baselines3's interface.

    An episode ends when its text ends, also at the token budget: no decision is credited with what
    would have come after it.

    Attributes:
        played: the last rounds of all streams.
    """

    def __init__(self, game: ReplayGame) -> None:
        self.game = game
        self.played: StreamRounds | None = None
        self._nothing: dict[str, Any] = {}
        super().__init__(game.streams.streams, game.observation_space, game.action_space)

    def reset(self) -> np.ndarray:
        if self._seeds[0] is not None:
            self.game.seed(self._seeds[0])
            self._reset_seeds()
        return self.game.reset()

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict]]:
        observation, rewards, self.played, last = self.game.step(self._actions)
        infos = [self._nothing] * self.num_envs
        for row, stream in enumerate(np.flatnonzero(self.played.finished)):
            infos[stream] = {"terminal_observation": last[row]}
        return observation, rewards, self.played.finished, infos

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        if attr_name == "render_mode":
            return [None] * self._count(indices)
        return [getattr(self.game, attr_name)] * self._count(indices)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        raise NotImplementedError("replayed streams share their settings: make a new environment")

    def env_method(
        self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        raise NotImplementedError("replayed streams are not separate environments")

    def env_is_wrapped(self, wrapper_class: type, indices: VecEnvIndices = None) -> list[bool]:
        return [False] * self._count(indices)

    def _count(self, indices: VecEnvIndices) -> int:
        if indices is None:
            return self.num_envs
        return len(list(indices)) if isinstance(indices, (Sequence, Iterable)) else 1
