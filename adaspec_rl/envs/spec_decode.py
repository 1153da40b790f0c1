"""The decoding loop as a Gymnasium environment: one step is one round of speculation."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from adaspec_rl.control.action import most_nodes
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.control.stream_observer import StreamObserver
from adaspec_rl.costs.profile import CostProfile, Unread, check_nodes
from adaspec_rl.costs.work import played_work
from adaspec_rl.decoding.round import Action
from adaspec_rl.decoding.session import Session
from adaspec_rl.envs.inputs import is_index, option
from adaspec_rl.envs.reward import Reward, check_choice

TIMINGS = ("profile", "clock")


class SpecDecodeEnv(gym.Env[np.ndarray, np.int64]):
    """An episode generates one text; an action is an index into a fixed list of `Action`s.

    The end-of-text token terminates an episode, the token budget truncates it. `info["round"]` is
    the `Round` just played, `info["seconds"]` is its cost, and `info["steps"]` is that cost in
    autoregressive steps.
    """

    metadata = {"render_modes": []}

    def __init__(
        self,
        session: Session,
        prompts: Sequence[Sequence[int]],
        actions: Sequence[Action],
        features: ObservationSpec,
        profile: CostProfile,
        *,
        reward: str = "throughput",
        timing: str = "profile",
        batch_size: int = 1,
        distance_price: float = 0.0,
    ) -> None:
        """`prompts` are token ids; `timing` says where a round's seconds come from.

        Under lossy verification, `distance_price` times the round's `distance` from the target is
        subtracted from its reward.

        Profiled seconds are looked up at `batch_size` and the text's current length; they include
        the policy's own time.

        Raises:
            ValueError: no prompts, no actions, or an action that the profile does not cover.
        """
        if not prompts:
            raise ValueError("the environment needs at least 1 prompt, got none")
        if not actions:
            raise ValueError("the environment needs at least 1 action, got none")
        check_choice("timing", timing, TIMINGS)
        longest = max(action.length for action in actions)
        if timing == "profile" and longest > profile.max_length:
            raise ValueError(
                f"an action drafts {longest} tokens but the cost profile covers "
                f"{profile.max_length}: measure it with max_length={longest}"
            )
        if timing == "profile":
            check_nodes(profile.max_nodes, most_nodes(actions))
        self.session = session
        self.prompts = prompts
        self.actions = tuple(actions)
        self.features = features
        self.profile = profile
        self.timing = timing
        self.batch_size = batch_size
        self.distance_price = distance_price
        self.reward = Reward(reward)
        self.rate = 1.0  # the reward's λ
        self.action_space = gym.spaces.Discrete(len(actions))
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (len(features),), np.float32)
        cost = profile.at(batch_size=batch_size).features()
        self._unread = Unread(profile.drafters)
        self._context: int | None = None  # tokens so far
        self._observer = StreamObserver(features, cost)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a text from a random prompt, or from number `options["prompt"]`.

        Raises:
            ValueError: there is no such prompt, or no such option.
        """
        super().reset(seed=seed)
        drawn = int(self.np_random.integers(len(self.prompts)))
        number = option(options, "prompt", drawn)
        if not is_index(number, len(self.prompts)):
            raise ValueError(
                f"the option prompt is {number!r}: expected an integer from 0 to "
                f"{len(self.prompts) - 1}"
            )
        seed = int(self.np_random.integers(2**31))
        self.session.start(self.prompts[number], seed, signals=self.features.needs_signals)
        self._context = len(self.prompts[number])
        self._unread.start(self._context)
        self._observer.start(self.prompts[number], self.session.forecast)
        return self._observer.observation(), {"prompt": number}

    def step(self, action: np.int64 | int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Play one round with `actions[action]`.

        Raises:
            ValueError: there is no such action, or no text is being decoded.
        """
        if not is_index(action, len(self.actions)):
            raise ValueError(
                f"the action is {action!r}: expected an integer from 0 to {len(self.actions) - 1}"
            )
        if self._context is None or self.session.finished:
            raise ValueError("the episode has not begun or is over: call reset() before step()")
        chosen = self.actions[int(action)]
        played = self.session.step(chosen)
        self._observer.update(played)
        costs = self.profile.at(self._context, self.batch_size)
        seconds, emitted = played.seconds, len(played.tokens)
        before = self._unread.seconds(costs)
        work = played_work(chosen, played)
        unread = self._unread.played(work.drafters, emitted)
        if self.timing == "profile":
            reading = sum(costs.catch_up[d] * tokens for d, tokens in zip(work.drafters, unread))
            seconds = costs.of(work) + reading + self.profile.policy
        self._context += emitted
        steps = seconds / costs.autoregressive_step
        owed = (self._unread.seconds(costs) - before) / costs.autoregressive_step
        reward = self.reward(emitted, played.accepted, steps + owed, self.rate)
        reward -= self.distance_price * played.distance
        finished = self.session.finished
        return (
            self._observer.observation(),
            reward,
            finished == "eos",
            finished in ("length", "context"),
            {"round": played, "seconds": seconds, "steps": steps},
        )
