"""The best results in hindsight: the best schedule, and the best fixed draft length."""

from collections.abc import Sequence

import numpy as np

from adaspec_rl.costs.profile import CostProfile, RoundCosts
from adaspec_rl.decoding.round import FALLBACK, Action
from adaspec_rl.recording.trace import Trace
from adaspec_rl.replay.outcomes import Outcomes, nearest_context, outcomes, steps_of
from adaspec_rl.replay.schedule import Schedule

STATES = 1 << 22  # costs in memory at a time


def lengths_of(trace: Trace, max_length: int | None = None) -> list[Action]:
    """The fallback, and every draft length with every recorded drafter."""
    longest = min(max_length or trace.max_length, trace.max_length)
    return [FALLBACK] + [
        Action(length, drafter)
        for drafter in range(len(trace.drafters))
        for length in range(1, longest + 1)
    ]


def oracle(
    trace: Trace,
    profile: CostProfile,
    *,
    actions: Sequence[Action] | None = None,
    max_length: int | None = None,
    batch_size: int = 1,
) -> Schedule:
    """The cheapest way through every text: a shortest path, solved from its end backwards.

    It knows all outcomes in advance and pays for everything that a round costs, including what its
    drafter has to catch up on. No controller that chooses among `actions` (the fallback first; by
    default every length with every drafter) takes fewer autoregressive steps.
    """
    found = outcomes(trace, actions or lengths_of(trace, max_length))
    assert found.actions[0] == FALLBACK
    points = profile.contexts(batch_size)
    context = nearest_context(points, found.context)
    reading = _Reading(catch_up_steps(points), np.unique(context))
    steps = steps_of(found, profile, batch_size=batch_size)
    return shortest_path(found, steps, context, reading)


def catch_up_steps(points: Sequence[RoundCosts]) -> np.ndarray:
    """Autoregressive steps that a drafter needs to read a token it missed, `[contexts, D]`."""
    return np.array([np.divide(p.catch_up, p.autoregressive_step) for p in points])


class _Reading:
    """When each drafter is used next; it then reads the tokens committed without it.

    Seen from the end of a text, an unread token costs what reading it costs where the drafter
    drafts next, and nothing if the drafter never does. So the cost of the rest depends only on the
    position and on this state. A state has a digit for each drafter: 0 for never, else one more
    than the number of the context in which the drafter is used next.
    """

    def __init__(self, rises: np.ndarray, contexts: np.ndarray) -> None:
        """`rises` `[C, D]`: steps to read a token; `contexts`: which of the `C` contexts occur."""
        self.digits = {int(context): digit for digit, context in enumerate(contexts, 1)}
        self.base = 1 + len(contexts)
        self.places = self.base ** np.arange(rises.shape[1])  # [D]
        self.count = self.base ** rises.shape[1]  # S
        self.digit = np.arange(self.count)[:, None] // self.places % self.base  # [S, D]
        costs = np.vstack([np.zeros(rises.shape[1]), rises[contexts]])
        self.token = np.take_along_axis(costs, self.digit, axis=0).sum(axis=1)  # [S] of one token

    def others(self, drafters: Sequence[int]) -> np.ndarray:
        """States `[S']` in which none of these drafters is used again."""
        return np.flatnonzero((self.digit[:, drafters] == 0).all(axis=1))

    def any_next(self, drafters: Sequence[int]) -> np.ndarray:
        """`others` with every next use of these drafters, `[S', base ** drafters]`."""
        nexts = np.indices((self.base,) * len(drafters)).reshape(len(drafters), -1)
        return self.others(drafters)[:, None] + self.places[list(drafters)] @ nexts


def shortest_path(
    found: Outcomes, steps: np.ndarray, context: np.ndarray, reading: _Reading
) -> Schedule:
    """The cheapest schedule of every text, given the cost `[A, M]` of each action.

    `context` `[M]` is the index of each position's cost point.
    """
    starts = found.trace.starts
    counts = np.diff(starts)
    best, total = np.zeros(starts[-1], dtype=np.int64), np.zeros(len(counts))
    size = max(1, STATES // (int(counts.max() + 1) * reading.count))
    for first in range(0, len(counts), size):
        texts = np.arange(first, min(first + size, len(counts)))
        prompts = np.array([len(found.trace.texts[n].prompt) for n in texts])
        path = _Path(found, steps, context, reading, starts[texts], counts[texts])
        total[texts] = path.follow(prompts, best)
    return Schedule(found.actions, best, total, counts)


class _Path:
    """The shortest paths of some texts: the cost of the rest of each, from every state."""

    def __init__(
        self,
        found: Outcomes,
        steps: np.ndarray,
        context: np.ndarray,
        reading: _Reading,
        starts: np.ndarray,
        counts: np.ndarray,
    ) -> None:
        self.found, self.steps, self.context, self.reading = found, steps, context, reading
        self.starts, self.counts = starts, counts
        # The set of drafters in each round, as a number, and the actions with each such set.
        crew = found.uses @ 2 ** np.arange(len(reading.places))
        self.crew = crew[found.work]  # [A, M]
        members = {int(code): found.works[n].drafters for n, code in enumerate(crew) if code}
        self.drafting = [
            (code, drafters, np.flatnonzero((self.crew == code).any(axis=1)))
            for code, drafters in members.items()
        ]
        shape = (len(counts), int(counts.max()) + 1, reading.count)
        self.ahead = np.full(shape, np.inf)  # [N, G + 1, S] cost of the rest
        self.ahead[np.arange(len(counts)), counts, 0] = 0.0
        self.choice = np.zeros(shape, dtype=np.int32)  # number of the action
        self.later = np.zeros(shape, dtype=np.int32)  # state after its round
        for index in range(int(counts.max()) - 1, -1, -1):
            self._solve(index)

    def _solve(self, index: int) -> None:
        """Solve position `index` of all texts that have it."""
        alive = np.flatnonzero(self.counts > index)
        at = self.starts[alive] + index
        # A plain step; every drafter that is used later has one more token to read.
        self.ahead[alive, index] = (
            self.steps[0, at, None] + self.reading.token + self.ahead[alive, index + 1]
        )
        self.later[alive, index] = np.arange(self.reading.count)
        for code, drafters, actions in self.drafting:
            self._draft(index, alive, code, drafters, actions)

    def _draft(
        self,
        index: int,
        alive: np.ndarray,
        code: int,
        drafters: Sequence[int],
        actions: np.ndarray,
    ) -> None:
        """Consider rounds in which these drafters draft, after which they have read everything."""
        reading, at = self.reading, self.starts[alive] + index
        others, nexts = reading.others(drafters), reading.any_next(drafters)  # [S'], [S', N]
        emitted = self.found.emitted[actions][:, at].T.astype(np.int64)  # [alive, L]
        rest = self.ahead[alive[:, None], index + emitted][..., nexts]  # [alive, L, S', N]
        digit = rest.argmin(axis=-1)
        total = self.steps[actions][:, at].T[..., None] + rest.min(axis=-1)
        total += emitted[..., None] * reading.token[others]  # [alive, L, S']
        total[code != self.crew[actions][:, at].T] = np.inf
        chosen = total.argmin(axis=1)  # [alive, S']
        cost = np.take_along_axis(total, chosen[:, None], axis=1)[:, 0]
        digit = np.take_along_axis(digit, chosen[:, None], axis=1)[:, 0]
        here = np.array([reading.digits[int(number)] for number in self.context[at]])
        states = others + here[:, None] * reading.places[list(drafters)].sum()  # [alive, S']
        rows = alive[:, None], index, states
        better = cost < self.ahead[rows]
        self.ahead[rows] = np.where(better, cost, self.ahead[rows])
        self.choice[rows] = np.where(better, actions[chosen], self.choice[rows])
        later = np.take_along_axis(nexts[None], digit[..., None], axis=-1)[..., 0]
        self.later[rows] = np.where(better, later, self.later[rows])

    def follow(self, prompts: np.ndarray, best: np.ndarray) -> np.ndarray:
        """Write the chosen actions to `best` `[M]`. Returns the costs `[N]`, prompts included."""
        total = self.ahead[:, 0] + prompts[:, None] * self.reading.token  # no drafter has read them
        states = total.argmin(axis=1)
        for row, (start, count) in enumerate(zip(self.starts, self.counts)):
            index, state = 0, int(states[row])
            while index < count:
                action = int(self.choice[row, index, state])
                best[start + index] = action
                state = int(self.later[row, index, state])
                index += int(self.found.emitted[action, start + index])
        return total[np.arange(len(states)), states]


def fixed_steps(
    trace: Trace, actions: Sequence[Action], profile: CostProfile, *, batch_size: int = 1
) -> np.ndarray:
    """Cost `[A, N]` of each text if one action is used throughout, in autoregressive steps."""
    found = outcomes(trace, actions)
    steps = steps_of(found, profile, batch_size=batch_size)
    at = np.tile(trace.starts[:-1], (len(actions), 1))  # [A, N]
    ends = trace.starts[1:]
    rows = np.arange(len(actions))[:, None]
    total = np.zeros(at.shape)
    points = profile.contexts(batch_size)
    rises = catch_up_steps(points)
    context = nearest_context(points, found.context)
    prompts = np.array([len(text.prompt) for text in trace.texts])
    unread = np.tile(prompts[:, None], (len(actions), 1, len(trace.drafters)))  # [A, N, D]
    uses = found.uses
    while (alive := at < ends).any():
        here = np.where(alive, at, 0)
        using = uses[found.work[rows, here]] & alive[..., None]
        emitted = np.where(alive, found.emitted[rows, here], 0)
        total += np.where(alive, steps[rows, here], 0.0)
        total += (unread * rises[context[here]] * using).sum(axis=-1)
        unread = np.where(using, 0, unread + emitted[..., None])
        at = at + emitted
    return total


def best_fixed(
    trace: Trace,
    profile: CostProfile,
    *,
    actions: Sequence[Action] | None = None,
    max_length: int | None = None,
    batch_size: int = 1,
) -> tuple[Action, float]:
    """The single action that is fastest on these same texts, and its speedup.

    `actions` are by default the fallback and every length with every drafter.
    """
    actions = actions or lengths_of(trace, max_length)
    steps = fixed_steps(trace, actions, profile, batch_size=batch_size).sum(axis=1)
    choice = int(steps.argmin())
    return actions[choice], float(trace.starts[-1] / steps[choice])
