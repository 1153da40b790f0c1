"""Tables of what every action would do at every recorded position."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from adaspec_rl.control.text_features import TextFeatures
from adaspec_rl.costs.profile import CostProfile, RoundCosts
from adaspec_rl.costs.work import PLAIN_STEP, RoundWork
from adaspec_rl.decoding.drafters import NgramLookup
from adaspec_rl.decoding.forecast import forecasts
from adaspec_rl.decoding.round import Action, check_exact
from adaspec_rl.decoding.tree_shape import TreeGrowth
from adaspec_rl.recording.trace import Trace
from adaspec_rl.replay.branches import (
    Branches,
    drafted_shape,
    merged_rounds,
    merged_work,
    tree_rounds,
    tree_work,
)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Rounds of `A` actions at `M` positions, before they are played.

    The models' work in a round, apart from catching up, is one of `U` works, given by number.
    Number 0 is a plain step; any other work belongs to a single action.
    """

    trace: Trace
    actions: tuple[Action, ...]
    drafted: np.ndarray  # [A, M] int16, all nodes of a tree
    accepted: np.ndarray  # [A, M] int16
    emitted: np.ndarray  # [A, M] int16
    reached: np.ndarray  # [A, M] int16, see `Round.reached`
    work: np.ndarray  # [A, M] int32
    works: tuple[RoundWork, ...]  # [U]
    first: np.ndarray  # [U] int64, tokens of the chain that signals describe
    context: np.ndarray  # [M] int32, tokens before the round

    @property
    def uses(self) -> np.ndarray:
        """Which drafters draft in each work, `[U, D]` bool."""
        found = np.zeros((len(self.works), len(self.trace.drafters)), dtype=bool)
        for number, work in enumerate(self.works):
            found[number, list(work.drafters)] = True
        return found


@dataclass(slots=True)
class _Works:
    """The works of all actions so far."""

    works: list[RoundWork]
    first: list[int]

    def numbers(
        self, parts: np.ndarray, first: np.ndarray, make: Callable[[list[int]], RoundWork]
    ) -> np.ndarray:
        """Numbers `[M]` of the works that `make` makes from the rows of `parts` `[M, P]`."""
        codes = parts @ 256 ** np.arange(parts.shape[1])  # sorted many times faster than rows
        _, at, inverse = np.unique(codes, return_index=True, return_inverse=True)
        chosen = []
        for place in at.tolist():
            work = make(parts[place].tolist())
            chosen.append(len(self.works) if work.drafts else 0)
            if work.drafts:
                self.works.append(work)
                self.first.append(int(first[place]))
        return np.array(chosen)[inverse]


def outcomes(trace: Trace, actions: Sequence[Action]) -> Outcomes:
    """Tables of what `actions` do.

    Raises:
        ValueError: an action needs longer drafts, another drafter or trees that were not recorded.
    """
    context, left, room = positions(trace)
    shape = (len(actions), len(left))
    drafted, accepted, reached = (np.zeros(shape, dtype=np.int16) for _ in range(3))
    work = np.zeros(shape, dtype=np.int32)
    works = _Works([PLAIN_STEP], [0])
    for row, action in enumerate(actions):
        check_action(trace, action)
        assert action.rule is None, "rules are asked round by round: use a ReplaySession"
        if action.length:
            found, make = _branches(trace, action, room)
            drafted[row], accepted[row] = found.nodes, found.accepted
            work[row] = works.numbers(found.parts, found.first, make)
            beyond = accepted[row] + ~found.at_leaf
            reached[row] = np.minimum(np.minimum(beyond, found.nodes), left)
    emitted = np.minimum(accepted + 1, left).astype(np.int16)
    return Outcomes(
        trace,
        tuple(actions),
        drafted,
        accepted,
        emitted,
        reached,
        work,
        tuple(works.works),
        np.array(works.first),
        context,
    )


def _branches(
    trace: Trace, action: Action, room: np.ndarray
) -> tuple[Branches, Callable[[list[int]], RoundWork]]:
    """Rounds of an action that drafts, and a function that makes the work from a row of `parts`."""
    if action.tree is not None:
        table = trace.drafters[action.drafter]
        shape = drafted_shape(table, action.tree)
        return tree_rounds(table, shape, room), lambda row: tree_work(action.drafter, shape, *row)
    tables = [trace.drafters[number] for number in (action.drafter, *action.also)]
    lengths = np.array([draft_lengths(t.tokens, t.survival, action, room) for t in tables])
    found = merged_rounds(tables, np.maximum(lengths, 0))
    return found, lambda row: merged_work(action, row[:-1], row[-1])


def check_action(trace: Trace, action: Action) -> None:
    """Refuse actions that were not recorded.

    Raises:
        ValueError: the trace lacks the action's draft length, drafter or trees.
    """
    check_exact(action, "replay")
    if action.length > trace.max_length:
        raise ValueError(
            f"an action drafts {action.length} tokens but the trace holds drafts of up to "
            f"{trace.max_length}: record it with max_length={action.length}"
        )
    for drafter in (action.drafter, *action.also) if action.length else ():
        if not 0 <= drafter < len(trace.drafters):
            raise ValueError(
                f"no drafter number {drafter}: the trace has 0 to {len(trace.drafters) - 1}"
            )
    if action.tree is None:
        return
    if isinstance(action.tree, TreeGrowth):
        raise ValueError(
            f"replay knows ranks, no confidence, got '{action}': decode live, or take a shape"
        )
    if action.also:
        raise ValueError(
            f"replay merges chains of several drafters, no trees, got '{action}': give each a chain"
        )
    if trace.drafters[action.drafter].ranks is None:
        raise ValueError(
            f"the trace has no ranks of {trace.drafters[action.drafter].name}'s choices, without "
            "which token trees cannot be replayed: record it with ranks"
        )


def positions(trace: Trace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By position, `[M]`: tokens before it; the text's tokens from it on; draft tokens allowed."""
    made = [np.arange(len(text.tokens)) for text in trace.texts]
    context = [len(text.prompt) + index for text, index in zip(trace.texts, made)]
    left = [len(text.tokens) - index for text, index in zip(trace.texts, made)]
    # A text that ended by itself had budget left, which drafts beyond its end may use.
    room = [text.budget - index - 1 for text, index in zip(trace.texts, made)]
    return np.concatenate(context), np.concatenate(left), np.concatenate(room)


def draft_lengths(
    tokens: np.ndarray, survival: np.ndarray, action: Action, room: np.ndarray
) -> np.ndarray:
    """How many tokens `action` drafts at each position, `[M]`."""
    allowed = np.minimum(np.minimum(action.length, room), (tokens >= 0).sum(axis=1))
    if action.threshold == 0:
        return allowed
    low = survival < np.float32(action.threshold)
    stops = np.where(low.any(axis=1), low.argmax(axis=1) + 1, survival.shape[1])
    return np.minimum(allowed, stops)


def text_features(trace: Trace) -> tuple[np.ndarray, np.ndarray]:
    """`TextFeatures.values` of texts after their prompts `[N, 4]` and after each token `[M, 4]`."""
    starts, after = [], []
    found = TextFeatures()
    for text in trace.texts:
        found.start(text.prompt.tolist())
        starts.append(found.values)
        for token in text.tokens.tolist():
            found.extend([token])
            after.append(found.values)
    return np.array(starts), np.array(after)


def recorded_forecasts(trace: Trace) -> np.ndarray:
    """`LiveSession.forecast` at each position, `[M, 2 and more]`."""
    lookup = np.zeros((int(trace.starts[-1]), 2))
    for drafter in trace.drafters:
        if drafter.name == NgramLookup.name:
            lookup = forecasts(drafter.tokens, drafter.survival)
            break
    tables = [forecasts(one.tokens, one.survival) for one in trace.drafters if one.foreseen]
    return np.hstack([lookup, *tables])


def work_steps(
    points: Sequence[RoundCosts], works: Sequence[RoundWork], policy: float
) -> np.ndarray:
    """Costs of works, in autoregressive steps at the same context: `[contexts, U]`.

    `policy` seconds are added to every round.
    """
    return np.array(
        [
            [(point.of(work) + policy) / point.autoregressive_step for work in works]
            for point in points
        ]
    )


def nearest_context(points: Sequence[RoundCosts], context: np.ndarray) -> np.ndarray:
    """Index of the measured point nearest to each context length."""
    known = np.array([point.context for point in points])
    return np.abs(context[:, None] - known).argmin(axis=1)


def steps_of(
    found: Outcomes, profile: CostProfile, *, batch_size: int = 1, policy: bool = False
) -> np.ndarray:
    """Cost of every action at every position, `[A, M]`, in autoregressive steps."""
    points = profile.contexts(batch_size)
    table = work_steps(points, found.works, profile.policy if policy else 0.0)
    return table[nearest_context(points, found.context), found.work]
