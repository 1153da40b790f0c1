"""Hindsight: nothing that chooses lengths is faster than the shortest path."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaspec_rl.control.fixed import FixedLength
from adaspec_rl.control.generation import generate
from adaspec_rl.decoding.round import Action
from adaspec_rl.replay.cost_profile import CostProfile
from adaspec_rl.replay.oracle import best_fixed, fixed_steps, lengths_of, oracle, shortest_path
from adaspec_rl.replay.outcomes import outcomes, steps_of
from adaspec_rl.replay.session import ReplaySession
from adaspec_rl.replay.trace import Trace
from tests.replay.recordings import profile, toy_trace

THRESHOLDS = [Action(4, d, t) for d in range(2) for t in (0.1, 0.5, 0.9)]


@cache
def recorded(folder, temperature: float, eos_ids: tuple[int, ...]) -> Trace:
    return toy_trace(folder, temperature=temperature, eos_ids=eos_ids, max_new_tokens=7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("traces")


TRACES = st.tuples(st.sampled_from([0.0, 0.8]), st.sampled_from([(), (2,), (1, 3)]))
PROFILES = st.builds(profile, st.integers(0, 50))


def round_steps(trace: Trace, number: int, made: int, action: Action, costs: CostProfile):
    """Cost of one round of text `number` after `made` tokens, and what it emits."""
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
    seconds = point.seconds(action.drafter, drafted, action.threshold > 0)
    return seconds / point.autoregressive_step, min(accepted + 1, len(text.tokens) - made)


def cheapest(trace: Trace, number: int, made: int, actions, costs: CostProfile) -> float:
    """By trying every schedule."""
    if made == len(trace.texts[number].tokens):
        return 0.0
    tried = set()
    for action in actions:
        tried.add(round_steps(trace, number, made, action, costs))
    return min(
        steps + cheapest(trace, number, made + emitted, actions, costs) for steps, emitted in tried
    )


@settings(max_examples=15, deadline=None)
@given(kind=TRACES, costs=PROFILES, thresholds=st.booleans())
def test_the_shortest_path_equals_trying_every_schedule(folder, kind, costs, thresholds):
    trace = recorded(folder, *kind)
    actions = [*lengths_of(trace, 2), *(THRESHOLDS[:2] if thresholds else [])]
    found = outcomes(trace, actions)
    schedule = shortest_path(found, steps_of(found, costs))
    for number in range(len(trace.texts)):
        expected = cheapest(trace, number, 0, actions, costs)
        assert schedule.steps[number] == pytest.approx(expected)
    assert schedule.tokens.tolist() == [len(text.tokens) for text in trace.texts]
    assert schedule.speedup == pytest.approx(schedule.tokens.sum() / schedule.steps.sum())


@settings(max_examples=40, deadline=None)
@given(kind=TRACES, costs=PROFILES)
def test_playing_the_oracles_schedule_costs_what_it_says(folder, kind, costs):
    trace = recorded(folder, *kind)
    best = oracle(trace, costs)
    for number, text in enumerate(trace.texts):
        made, steps = 0, 0.0
        while made < len(text.tokens):
            action = best.actions[best.best[trace.starts[number] + made]]
            cost, emitted = round_steps(trace, number, made, action, costs)
            made, steps = made + emitted, steps + cost
        assert steps == pytest.approx(best.steps[number])


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
