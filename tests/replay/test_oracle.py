"""Hindsight: nothing that chooses lengths is faster than the shortest path."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaspec_rl.control.baselines.fixed import FixedLength
from adaspec_rl.control.generation import generate
from adaspec_rl.costs.profile import CostProfile
from adaspec_rl.decoding.round import FALLBACK, Action
from adaspec_rl.decoding.tree_shape import TreeGrowth, TreeShape
from adaspec_rl.recording.trace import Trace
from adaspec_rl.replay.oracle import (
    best_fixed,
    fixed_steps,
    lengths_of,
    oracle,
)
from adaspec_rl.replay.outcomes import outcomes
from adaspec_rl.replay.schedule import ScheduleController
from adaspec_rl.replay.session import ReplaySession
from tests.recording.recordings import profile, toy_trace

Unread = tuple[int, ...]
THRESHOLDS = [Action(4, d, t) for d in range(2) for t in (0.1, 0.5, 0.9)]


@cache
def recorded(folder, temperature: float, eos_ids: tuple[int, ...]) -> Trace:
    return toy_trace(folder, temperature=temperature, eos_ids=eos_ids, max_new_tokens=7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("traces")


TRACES = st.tuples(st.sampled_from([0.0, 0.8]), st.sampled_from([(), (2,), (1, 3)]))
PROFILES = st.builds(profile, st.integers(0, 50))


def round_steps(
    trace: Trace, number: int, made: int, action: Action, costs: CostProfile, unread: Unread
):
    """Cost of one round of text `number` after `made` tokens, what it emits, what is unread then.

    `unread` are the tokens that each drafter has not read.
    """
    text, at = trace.texts[number], int(trace.starts[number]) + made
    drafted = accepted = 0
    if action.length:
        table = trace.drafters[action.drafter]
        drafted = min(action.length, text.budget - made - 1)
        low = np.flatnonzero(table.survival[at, :drafted] < np.float32(action.threshold))
        if action.threshold and len(low):
            drafted = int(low[0]) + 1
        while accepted < drafted and made + accepted < len(text.tokens):
            if table.tokens[at, accepted] != text.tokens[made + accepted]:
                break
            accepted += 1
    point = costs.at(len(text.prompt) + made)
    missed = unread[action.drafter] if drafted else 0
    seconds = point.seconds(action.drafter, drafted, action.threshold > 0, missed)
    emitted = min(accepted + 1, len(text.tokens) - made)
    later = [
        0 if drafted and d == action.drafter else count + emitted for d, count in enumerate(unread)
    ]
    return seconds / point.autoregressive_step, emitted, tuple(later)


def cheapest(trace: Trace, number: int, actions, costs: CostProfile) -> float:
    """By trying every schedule."""
    text = trace.texts[number]

    @cache
    def rest(made: int, unread: Unread) -> float:
        if made == len(text.tokens):
            return 0.0
        tried = {round_steps(trace, number, made, action, costs, unread) for action in actions}
        return min(steps + rest(made + emitted, later) for steps, emitted, later in tried)

    return rest(0, (len(text.prompt),) * len(trace.drafters))


@settings(max_examples=30, deadline=None)
@given(kind=TRACES, costs=PROFILES, thresholds=st.booleans())
def test_the_shortest_path_equals_trying_every_schedule(folder, kind, costs, thresholds):
    trace = recorded(folder, *kind)
    actions = [*lengths_of(trace, 3), *(THRESHOLDS[:2] if thresholds else [])]
    schedule = oracle(trace, costs, actions=actions)
    for number in range(len(trace.texts)):
        assert schedule.steps[number] == pytest.approx(cheapest(trace, number, actions, costs))
    assert schedule.tokens.tolist() == [len(text.tokens) for text in trace.texts]
    assert schedule.speedup == pytest.approx(schedule.tokens.sum() / schedule.steps.sum())


@settings(max_examples=40, deadline=None)
@given(kind=TRACES, costs=PROFILES)
def test_playing_the_oracles_schedule_costs_what_it_says(folder, kind, costs):
    trace = recorded(folder, *kind)
    best = oracle(trace, costs)
    for number, text in enumerate(trace.texts):
        made, steps, unread = 0, 0.0, (len(text.prompt),) * len(trace.drafters)
        while made < len(text.tokens):
            action = best.actions[best.best[trace.starts[number] + made]]
            cost, emitted, unread = round_steps(trace, number, made, action, costs, unread)
            made, steps = made + emitted, steps + cost
        assert steps == pytest.approx(best.steps[number])


@settings(max_examples=20, deadline=None)
@given(kind=TRACES, costs=PROFILES)
def test_the_oracles_bound_is_reached_by_its_controller(folder, kind, costs):
    """A replayed session pays for catching up, and the oracle has counted on it."""
    trace = recorded(folder, *kind)
    best = oracle(trace, costs)
    session, controller = ReplaySession(trace, costs), ScheduleController(trace, best, "oracle")
    for number, text in enumerate(trace.texts):
        prompt = text.prompt.tolist()
        made = generate(session, controller, prompt, cost=costs.at().features(), seed=text.seed)
        context, steps = len(prompt), 0.0
        for round_ in made.rounds:
            steps += round_.seconds / costs.at(context).autoregressive_step
            context += len(round_.tokens)
        assert steps == pytest.approx(best.steps[number])


def test_dear_reading_keeps_the_oracle_with_one_drafter(folder):
    trace, costs = recorded(folder, 0.0, ()), profile(3)
    dear, free = (
        oracle(trace, replace(costs, points=tuple(replace(p, catch_up=c) for p in costs.points)))
        for c in ((0.0, 5.0), (0.0, 0.0))
    )
    assert {dear.actions[number].drafter for number in dear.best} == {0}
    assert {free.actions[number].drafter for number in free.best} == {0, 1}
    assert dear.speedup < free.speedup


@settings(max_examples=40, deadline=None)
@given(kind=TRACES, costs=PROFILES)
def test_no_fixed_length_beats_the_oracle(folder, kind, costs):
    trace = recorded(folder, *kind)
    best = oracle(trace, costs)
    fixed = fixed_steps(trace, lengths_of(trace), costs)
    assert (best.steps <= fixed.min(axis=0) + 1e-9).all()
    action, speedup = best_fixed(trace, costs)
    assert 1.0 <= speedup <= best.speedup + 1e-9  # the fallback is a fixed length, too
    mine = fixed_steps(trace, [action], costs).sum()
    assert mine == pytest.approx(fixed.sum(axis=1).min()) and best.tokens.sum() / mine == speedup
    assert np.allclose(fixed[0], best.tokens)  # and costs one step a token
    shorter = oracle(trace, costs, max_length=2)
    assert (shorter.steps >= best.steps - 1e-9).all()
    assert max(a.length for a in shorter.actions) == 2


@settings(max_examples=30, deadline=None)
@given(
    kind=TRACES,
    seed=st.integers(0, 50),
    size=st.sampled_from([1, 4]),
    length=st.integers(0, 4),
    drafter=st.integers(0, 1),
)
def test_fixed_steps_are_those_of_a_controller(folder, kind, seed, size, length, drafter):
    trace = recorded(folder, *kind)
    costs = profile(seed, batch_sizes=(1, 4))
    session = ReplaySession(trace, costs, batch_size=size)
    controller = FixedLength(length, drafter)
    found = fixed_steps(trace, [controller.action], costs, batch_size=size)[0]
    for number, text in enumerate(trace.texts):
        made = generate(
            session, controller, text.prompt.tolist(), cost=costs.at().features(), seed=number
        )
        assert made.tokens == text.tokens.tolist() and made.finished == text.finished
        context, steps = len(text.prompt), 0.0
        for round_ in made.rounds:
            steps += round_.seconds / costs.at(context, size).autoregressive_step
            context += len(round_.tokens)
        assert found[number] == pytest.approx(steps)


TREE = TreeShape((-1, -1, 0, 0, 1), (0, 1, 0, 1, 0))
BRANCHING = [
    FALLBACK,
    Action(2, 0),
    Action(3, 1),
    Action(3, 0, 0.5),
    Action(2, 0, tree=TREE),
    Action(1, 1, tree=TreeShape((-1, -1), (0, 1))),
    Action(3, 0, also=(1,)),
    Action(4, 1, 0.4, also=(0,)),
]


@settings(max_examples=20, deadline=None)
@given(temperature=st.sampled_from([0.0, 0.8]), costs=PROFILES)
def test_the_shortest_path_among_trees_and_pairs_equals_trying_every_schedule(
    folder, temperature, costs
):
    trace = toy_trace(folder, ranks=True, temperature=temperature, max_new_tokens=6)
    found = outcomes(trace, BRANCHING)

    def cheapest(number: int) -> float:
        text, start = trace.texts[number], int(trace.starts[number])

        @cache
        def rest(made: int, unread: Unread) -> float:
            if made == len(text.tokens):
                return 0.0
            point, totals = costs.at(len(text.prompt) + made), []
            for row in range(len(BRANCHING)):
                work = found.works[found.work[row, start + made]]
                reading = sum(point.catch_up[d] * unread[d] for d in work.drafters)
                steps = (point.of(work) + reading) / point.autoregressive_step
                emitted = int(found.emitted[row, start + made])
                later = [0 if d in work.drafters else n + emitted for d, n in enumerate(unread)]
                totals.append(steps + rest(made + emitted, tuple(later)))
            return min(totals)

        return rest(0, (len(text.prompt),) * len(trace.drafters))

    schedule = oracle(trace, costs, actions=BRANCHING)
    for number in range(len(trace.texts)):
        assert schedule.steps[number] == pytest.approx(cheapest(number))


@settings(max_examples=20, deadline=None)
@given(costs=PROFILES, action=st.sampled_from(BRANCHING[3:]))
def test_fixed_trees_and_pairs_cost_what_a_session_says(folder, costs, action):
    trace = toy_trace(folder, ranks=True, temperature=0.8)
    session = ReplaySession(trace, costs)
    found = fixed_steps(trace, [action], costs)[0]
    for number, text in enumerate(trace.texts):
        session.start(text.prompt.tolist(), text.seed)
        steps = 0.0
        while session.finished is None:
            point = costs.at(len(text.prompt) + len(session.tokens))
            steps += session.step(action).seconds / point.autoregressive_step
        assert found[number] == pytest.approx(steps)


def test_selected_texts_keep_their_costs(folder):
    trace, costs = recorded(folder, 0.8, ()), profile()
    part = trace.select([3, 1])
    assert [text.seed for text in part.texts] == [3, 1]
    expected = fixed_steps(trace, THRESHOLDS, costs)[:, [3, 1]]
    assert np.allclose(fixed_steps(part, THRESHOLDS, costs), expected)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (Action(5), "drafts 5 tokens but the trace holds drafts of up to 4: record it with"),
        (Action(1, 2), "no drafter number 2: the trace has 0 to 1"),
        (Action(2, tree=TreeGrowth(4, 2, 2)), "knows ranks, no confidence, .* decode live"),
    ],
)
def test_what_was_not_recorded_is_refused(folder, action, message):
    trace = recorded(folder, 0.0, ())
    with pytest.raises(ValueError, match=message):
        outcomes(trace, [action])
    session = ReplaySession(trace, profile())
    session.start([1, 2])
    with pytest.raises(ValueError, match=message):
        session.step(action)


def test_a_replay_session_refuses_what_it_cannot_play(folder):
    session = ReplaySession(recorded(folder, 0.0, ()), profile())
    with pytest.raises(ValueError, match="finished"):
        session.step(Action(1))
    with pytest.raises(ValueError, match="no text after this prompt of 3 tokens"):
        session.start([1, 1, 1])
    with pytest.raises(ValueError, match="has no batch size 3, only 1"):
        oracle(session.trace, profile(), batch_size=3)
