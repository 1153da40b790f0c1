"""What could be had in hindsight: the best schedule, and the best fixed draft length."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adaspec_rl.decoding.round import FALLBACK, Action, Round
from adaspec_rl.replay.cost_profile import CostProfile
from adaspec_rl.replay.outcomes import Outcomes, nearest_context, outcomes, steps_of
from adaspec_rl.replay.trace import Trace


@dataclass(frozen=True, slots=True)
class Schedule:
    """The best action at every position, and what is left to pay from there on."""

    actions: tuple[Action, ...]
    best: np.ndarray  # [M] index into `actions`
    steps: np.ndarray  # [N] cost of each whole text, in autoregressive steps
    tokens: np.ndarray  # [N]

    @property
    def speedup(self) -> float:
        """Tokens an autoregressive step: the throughput over plain decoding's."""
        return float(self.tokens.sum() / self.steps.sum())


def lengths_of(trace: Trace, max_length: int | None = None) -> list[Action]:
    """The fallback, and every draft length with every recorded drafter."""
    longest = min(max_length or trace.max_length, trace.max_length)
    return [FALLBACK] + [
        Action(length, drafter)
        for drafter in range(len(trace.drafters))
        for length in range(1, longest + 1)
    ]


def oracle(
    trace: Trace, profile: CostProfile, *, max_length: int | None = None, batch_size: int = 1
) -> Schedule:
    """The cheapest way through every text: a shortest path, solved from its end backwards.

    Knows all outcomes in advance, and its drafters never have to catch up: no controller that
    chooses drafters and lengths is faster.
    """
    found = outcomes(trace, lengths_of(trace, max_length))
    steps = steps_of(found, profile, batch_size=batch_size)
    return shortest_path(found, steps)


def shortest_path(found: Outcomes, steps: np.ndarray) -> Schedule:
    """The cheapest action everywhere, given the cost `[A, M]` of each."""
    starts = found.trace.starts
    counts = np.diff(starts)
    ahead = np.zeros((len(counts), counts.max() + 1))  # [N, G + 1] cost of the rest of each text
    best = np.zeros(starts[-1], dtype=np.int64)
    for index in range(counts.max() - 1, -1, -1):
        alive = np.flatnonzero(counts > index)
        at = starts[alive] + index  # [alive]
        total = steps[:, at] + ahead[alive, index + found.emitted[:, at].astype(np.int64)]
        best[at] = total.argmin(axis=0)
        ahead[alive, index] = total.min(axis=0)
    return Schedule(found.actions, best, ahead[:, 0], counts)


def fixed_steps(
    trace: Trace, actions: Sequence[Action], profile: CostProfile, *, batch_size: int = 1
) -> np.ndarray:
    """Cost `[A, N]` of each text when one action is taken throughout, in autoregressive steps."""
    found = outcomes(trace, actions)
    steps = steps_of(found, profile, batch_size=batch_size)
    at = np.tile(trace.starts[:-1], (len(actions), 1))  # [A, N]
    ends = trace.starts[1:]
    rows = np.arange(len(actions))[:, None]
    total = np.zeros(at.shape)
    points = profile.contexts(batch_size)
    rises = np.array([np.divide(p.catch_up, p.autoregressive_step) for p in points])  # [C, D]
    context = nearest_context(points, found.context)
    drafter = np.array([action.drafter for action in actions])[:, None]
    unread = np.tile(np.array([len(text.prompt) for text in trace.texts]), (len(actions), 1))
    while (alive := at < ends).any():
        here = np.where(alive, at, 0)
        drafting = alive & (found.drafted[rows, here] > 0)
        emitted = np.where(alive, found.emitted[rows, here], 0)
        total += np.where(alive, steps[rows, here], 0.0)
        if drafting.any():
            total += np.where(drafting, unread * rises[context[here], drafter], 0.0)
        unread = np.where(drafting, 0, unread + emitted)
        at = at + emitted
    return total


def best_fixed(
    trace: Trace,
    profile: CostProfile,
    *,
    max_length: int | None = None,
    batch_size: int = 1,
) -> tuple[Action, float]:
    """The single drafter and length that are fastest on these very texts, and their speedup."""
    actions = lengths_of(trace, max_length)
    steps = fixed_steps(trace, actions, profile, batch_size=batch_size).sum(axis=1)
    choice = int(steps.argmin())
    return actions[choice], float(trace.starts[-1] / steps[choice])


class OracleController:
    """Plays a schedule: what a controller could do that knew the future. Recorded texts only."""

    name = "oracle"
    observes = None

    def __init__(self, trace: Trace, schedule: Schedule) -> None:
        self._trace, self._schedule = trace, schedule
        self._numbers: dict[tuple[tuple[int, ...], int], int] = {}
        for number, text in enumerate(trace.texts):
            self._numbers.setdefault((tuple(text.prompt.tolist()), text.seed), number)

    def reset(self, prompt: Sequence[int] = (), seed: int = 0) -> None:
        """Find the schedule of a text.

        Raises:
            ValueError: it was not recorded.
        """
        number = self._numbers.get((tuple(prompt), seed))
        if number is None:
            raise ValueError(
                f"the oracle knows no text after this prompt of {len(prompt)} tokens with seed "
                f"{seed}: record it first"
            )
        self._at, self._end = self._trace.starts[number], self._trace.starts[number + 1]

    def decide(self, observation: np.ndarray | None) -> Action:
        return self._schedule.actions[self._schedule.best[min(self._at, self._end - 1)]]

    def observe(self, round_: Round) -> None:
        self._at += len(round_.tokens)
