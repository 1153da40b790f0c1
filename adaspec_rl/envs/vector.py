"""Hundreds of replayed decoding loops as one Gymnasium `VectorEnv`, natively batched."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from adaspec_rl.control.checks import check_between
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.costs.profile import RoundCosts
from adaspec_rl.envs.inputs import option
from adaspec_rl.envs.reward import Reward
from adaspec_rl.replay.streams import ReplayStreams, ReplayTables, StreamRounds


class ReplayGame:
    """Replayed streams with rewards and fresh texts: the core of both vector environments."""

    def __init__(
        self,
        tables: ReplayTables,
        spec: ObservationSpec,
        profiles: Sequence[Sequence[RoundCosts]],
        *,
        policy: Sequence[float],
        streams: int,
        reward: str = "throughput",
        seed: int = 0,
    ) -> None:
        """Each new text draws one of `profiles` (costs by context) and its `policy` seconds."""
        check_between("streams", streams, 1)
        self.reward = Reward(reward)
        self.streams = ReplayStreams(tables, spec, profiles, policy=policy, streams=streams)
        self.count = len(tables.trace.texts)
        self.profiles = len(profiles)
        self.action_space = gym.spaces.Discrete(len(tables.actions))
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (len(spec),), np.float32)
        self._begun = np.zeros(streams, dtype=bool)
        self.seed(seed)

    def seed(self, seed: int | None) -> None:
        """Restart the random choice of texts and profiles."""
        self.rng = np.random.default_rng(seed)

    def reset(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Begin a text in some streams, by number, or in all; observations `[B, features]`."""
        self._start(np.arange(self.streams.streams) if rows is None else rows)
        return self.streams.observation()

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, StreamRounds, np.ndarray]:
        """Play one round everywhere; streams whose text ended begin another at once.

        Returns: observations `[B, F]`, rewards `[B]`, the rounds, and the last observations of the
        texts that ended `[ended, F]`.

        Raises:
            ValueError: `actions` are not `[B]` integers in the action space, or there was no reset.
        """
        actions = self._checked(actions)
        profile = self.streams.profile.copy()
        played = self.streams.step(actions)
        steps, rates = played.steps + played.owed, self.streams.rates[profile]
        rewards = self.reward(played.emitted, played.accepted, steps, rates)
        ended = np.flatnonzero(played.finished)
        observation = self.streams.observation()
        last = observation[ended]
        if len(ended):
            self._start(ended)
            observation[ended] = self.streams.observation(ended)
        return observation, rewards.astype(np.float32), played, last

    def _checked(self, actions: np.ndarray) -> np.ndarray:
        found = np.asarray(actions)
        streams, last = self.streams.streams, int(self.action_space.n) - 1
        if found.shape != (streams,) or found.dtype.kind not in "iu":
            raise ValueError(
                f"the actions are {found.dtype} of shape {list(found.shape)}: expected one integer "
                f"for each of {streams} streams"
            )
        if found.min() < 0 or found.max() > last:
            stream = int(np.flatnonzero((found < 0) | (found > last))[0])
            raise ValueError(
                f"the action of stream {stream} is {found[stream]}: expected an integer from 0 to "
                f"{last}"
            )
        if not self._begun.all():
            raise ValueError("some streams have not begun a text: call reset() before step()")
        return found.astype(np.int64, copy=False)

    def _start(self, rows: np.ndarray) -> None:
        self._begun[rows] = True
        texts = self.rng.integers(self.count, size=len(rows))
        profiles = self.rng.integers(self.profiles, size=len(rows))
        self.streams.start(rows, texts, profiles)


class AdaSpecVectorEnv(VectorEnv):
    """`ReplayGame` with Gymnasium's interface. Texts that end restart in the same step."""

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, game: ReplayGame) -> None:
        super().__init__()
        self.game = game
        self.num_envs = game.streams.streams
        self.single_action_space = game.action_space
        self.single_observation_space = game.observation_space
        self.action_space = batch_space(game.action_space, self.num_envs)
        self.observation_space = batch_space(game.observation_space, self.num_envs)

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a text in every stream, or where `options["reset_mask"]` (bool `[B]`) says so.

        All streams share one seed: `seed` itself, or the first of a list.

        Raises:
            ValueError: the mask or the list of seeds does not fit, or there is no such option.
        """
        mask = option(options, "reset_mask", np.ones(self.num_envs, dtype=bool))
        found = np.asarray(mask)
        if found.shape != (self.num_envs,) or found.dtype != np.bool_ or not found.any():
            raise ValueError(
                f"the option reset_mask has {np.count_nonzero(found)} set of {found.dtype} of "
                f"shape {list(found.shape)}: expected bool of shape [{self.num_envs}], at least 1 "
                "set"
            )
        if isinstance(seed, list) and len(seed) != self.num_envs:
            raise ValueError(f"got {len(seed)} seeds: expected one, or {self.num_envs}")
        first = seed[0] if isinstance(seed, list) else seed
        super().reset(seed=first, options=options)
        if first is not None:
            self.game.seed(first)
        return self.game.reset(np.flatnonzero(found)), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """`terminations` are texts ended by their end token, `truncations` by the budget."""
        before = self.game.streams.text.copy()
        observation, rewards, played, last = self.game.step(actions)
        texts = self.game.streams.tables.trace.texts
        by_itself = np.zeros(self.num_envs, dtype=bool)
        ended = np.flatnonzero(played.finished)
        by_itself[ended] = [texts[number].finished == "eos" for number in before[ended]]
        infos: dict[str, Any] = {"steps": played.steps, "emitted": played.emitted}
        if len(ended):
            final = np.full(self.num_envs, None, dtype=object)
            for row, stream in enumerate(ended):
                final[stream] = last[row]
            infos |= {"final_obs": final, "_final_obs": played.finished}
        return observation, rewards, by_itself, played.finished & ~by_itself, infos
