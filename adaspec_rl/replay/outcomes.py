"""What every action would do at every recorded position, as tables."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adaspec_rl.control.text_features import TextFeatures
from adaspec_rl.costs.profile import CostProfile, RoundCosts
from adaspec_rl.decoding.drafters import NgramLookup
from adaspec_rl.decoding.forecast import forecasts
from adaspec_rl.decoding.round import Action, check_chain, check_exact
from adaspec_rl.recording.trace import Trace


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Rounds of `A` actions at `M` positions, before they are played."""

    trace: Trace
    actions: tuple[Action, ...]
    drafted: np.ndarray  # [A, M] int16
    accepted: np.ndarray  # [A, M] int16
    emitted: np.ndarray  # [A, M] int16
    context: np.ndarray  # [M] int32, tokens before the round


def outcomes(trace: Trace, actions: Sequence[Action]) -> Outcomes:
    """Tables of what `actions` do.

    Raises:
        ValueError: an action asks for longer drafts or another drafter than were recorded.
    """
    for action in actions:
        check_action(trace, action)
        assert action.rule is None, "rules are asked round by round: use a ReplaySession"
    context, left, room = positions(trace)
    drafted = np.zeros((len(actions), len(left)), dtype=np.int16)
    accepted = np.zeros_like(drafted)
    for row, action in enumerate(actions):
        if action.length:
            table = trace.drafters[action.drafter]
            drafted[row] = draft_lengths(table.tokens, table.survival, action, room)
            accepted[row] = np.minimum(table.accepted, drafted[row])
    emitted = np.minimum(accepted + 1, left).astype(np.int16)
    return Outcomes(trace, tuple(actions), drafted, accepted, emitted, context)


def check_action(trace: Trace, action: Action) -> None:
    """Refuse what was not recorded.

    Raises:
        ValueError: longer drafts, or another drafter, than the trace has, or token trees.
    """
    check_chain(action, "replay")
    check_exact(action, "replay")
    if action.length > trace.max_length:
        raise ValueError(
            f"an action drafts {action.length} tokens but the trace holds drafts of up to "
            f"{trace.max_length}: record it with max_length={action.length}"
        )
    if action.length and not 0 <= action.drafter < len(trace.drafters):
        raise ValueError(
            f"no drafter number {action.drafter}: the trace has 0 to {len(trace.drafters) - 1}"
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
    """Tokens that `action` drafts at each position, `[M]`."""
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


def recorded_forecasts(trace: Trace) -> np.ndarray | None:
    """`LiveSession.forecast` at each position, `[M, 2]`; None: no lookup was recorded."""
    for table in trace.drafters:
        if table.name == NgramLookup.name:
            return forecasts(table.tokens, table.survival)
    return None


def round_steps(
    points: Sequence[RoundCosts], actions: Sequence[Action], policy: float
) -> np.ndarray:
    """What a round costs, in autoregressive steps at its own context: `[contexts, A, K + 1]`.

    The last axis is tokens drafted. `policy` seconds are added to every round.
    """
    depth = 1 + max(action.length for action in actions)
    table = np.empty((len(points), len(actions), depth))
    for c, point in enumerate(points):
        for a, action in enumerate(actions):
            for drafted in range(depth):
                count = min(drafted, action.length)
                seconds = point.seconds(action.drafter, count, action.stops, asked=action.length)
                table[c, a, drafted] = (seconds + policy) / point.autoregressive_step
    return table


def nearest_context(points: Sequence[RoundCosts], context: np.ndarray) -> np.ndarray:
    """Index of the point measured nearest to each context length."""
    known = np.array([point.context for point in points])
    return np.abs(context[:, None] - known).argmin(axis=1)


def steps_of(
    found: Outcomes, profile: CostProfile, *, batch_size: int = 1, policy: bool = False
) -> np.ndarray:
    """Cost of every action at every position, `[A, M]`, in autoregressive steps."""
    points = profile.contexts(batch_size)
    table = round_steps(points, found.actions, profile.policy if policy else 0.0)
    rows = np.arange(len(found.actions))[:, None]
    return table[nearest_context(points, found.context), rows, found.drafted]
