"""Many texts side by side are the same texts one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaspec_rl.control.action import action_list
from adaspec_rl.control.observation import GROUPS, ObservationSpec
from adaspec_rl.control.stream_observer import StreamObserver
from adaspec_rl.decoding.drafters import NgramLookup
from adaspec_rl.decoding.round import Action
from adaspec_rl.decoding.tree_shape import TreeShape
from adaspec_rl.recording.trace import Trace
from adaspec_rl.replay.oracle import fixed_steps
from adaspec_rl.replay.session import ReplaySession
from adaspec_rl.replay.streams import ReplayStreams, ReplayTables, play_all
from tests.recording.recordings import profile, toy_trace, toys

BUSHY = TreeShape((-1, -1, 0, 0, 1, 2), (0, 1, 0, 1, 0, 0))
ACTIONS = [
    *action_list("all", 4, 2, (0.2, 0.6), trees=[[BUSHY], [TreeShape((-1, -1), (0, 1))]]),
    Action(3, 2, also=(0,)),
    Action(4, 1, 0.5, also=(2, 0)),
    Action(3, 2, tree=BUSHY),
]
SPEC = ObservationSpec(max_length=4, vocab_size=8, drafters=3, trees=True)


@pytest.fixture(scope="module")
def traces(tmp_path_factory) -> list[Trace]:
    folder = tmp_path_factory.mktemp("traces")
    models = toys(noise=(0.3, 0.6))
    models.drafters = [*models.drafters, NgramLookup()]
    return [
        toy_trace(folder, models, ranks=True, temperature=0.0),
        toy_trace(folder, models, ranks=True, temperature=0.8, eos_ids=(2,), survival="head"),
    ]


class OneByOne:
    """A stream as a session plays it."""

    def __init__(self, trace: Trace, spec: ObservationSpec, costs, number: int) -> None:
        self.costs, self.text = costs, trace.texts[number]
        self.session = ReplaySession(trace, costs)
        self.observer = StreamObserver(spec, costs.at().features())
        prompt = self.text.prompt.tolist()
        self.session.start(prompt, self.text.seed)
        assert self.session.number == number
        self.observer.start(prompt, self.session.forecast)

    def step(self, action: int):
        """`(round, its cost in autoregressive steps, policy included)`."""
        context = len(self.text.prompt) + len(self.session.tokens)
        round_ = self.session.step(ACTIONS[action])
        self.observer.update(round_)
        seconds = round_.seconds + self.costs.policy
        return round_, seconds / self.costs.at(context).autoregressive_step


@settings(max_examples=25, deadline=None)
@given(
    which=st.integers(0, 1),
    seed=st.integers(0, 10_000),
    streams=st.integers(1, 12),
    groups=st.sampled_from([GROUPS, ("draft", "cost"), ("lookup", "cost")]),
)
def test_streams_equal_sessions_under_several_profiles(traces, which, seed, streams, groups):
    trace, rng = traces[which], np.random.default_rng(seed)
    spec = ObservationSpec(groups, max_length=4, vocab_size=8, drafters=3, trees=True)
    profiles = [profile(seed + n, drafters=3) for n in range(3)]
    together = ReplayStreams(
        ReplayTables(trace, ACTIONS),
        spec,
        [item.contexts() for item in profiles],
        policy=[item.policy for item in profiles],
        streams=streams,
    )
    texts, costs = rng.integers(5, size=streams), rng.integers(3, size=streams)
    together.start(slice(None), texts, costs)
    apart = [OneByOne(trace, spec, profiles[c], n) for n, c in zip(texts, costs)]
    for _ in range(30):
        expected = np.stack([one.observer.observation() for one in apart])
        assert np.allclose(together.observation(), expected, atol=1e-5)
        actions = rng.integers(len(ACTIONS), size=streams)
        played = together.step(actions)
        for b, one in enumerate(apart):
            round_, steps = one.step(actions[b])
            assert (played.drafted[b], played.accepted[b]) == (round_.drafted, round_.accepted)
            assert played.emitted[b] == len(round_.tokens)
            assert played.steps[b] == pytest.approx(steps)
            assert played.finished[b] == (one.session.finished is not None)
        final = np.stack([one.observer.observation() for one in apart])
        assert np.allclose(together.observation(), final, atol=1e-5)
        ended = np.flatnonzero(played.finished)
        if len(ended):  # these begin another text; the others go on
            texts, costs = rng.integers(5, size=len(ended)), rng.integers(3, size=len(ended))
            together.start(ended, texts, costs)
            for b, n, c in zip(ended, texts, costs):
                apart[b] = OneByOne(trace, spec, profiles[c], n)


def constant(action: int):
    return lambda observation: np.full(len(observation), action)


@pytest.mark.parametrize("which", [0, 1])
def test_playing_a_constant_action_costs_fixed_steps(traces, which):
    trace, costs = traces[which], profile(5, drafters=3)
    points = costs.contexts()
    tables = ReplayTables(trace, ACTIONS)
    streams = ReplayStreams(tables, SPEC, [points], policy=[0.0], streams=5)
    expected = fixed_steps(trace, ACTIONS, costs)
    for action in range(len(ACTIONS)):
        totals = play_all(streams, constant(action))
        assert np.allclose(totals.steps, expected[action])
        assert totals.tokens.tolist() == np.diff(trace.starts).tolist()
        assert totals.speedup == pytest.approx(trace.starts[-1] / expected[action].sum())
    fallback = play_all(streams, constant(0))
    assert np.array_equal(fallback.rounds, fallback.tokens) and not fallback.drafted.any()


def test_profiles_side_by_side_cost_what_each_costs_alone(traces):
    trace, profiles = traces[0], [profile(n, drafters=3) for n in range(3)]
    tables = ReplayTables(trace, ACTIONS)
    together = ReplayStreams(
        tables, SPEC, [p.contexts() for p in profiles], policy=[0.0, 0.1, 0.2], streams=5
    )
    for number, costs in enumerate(profiles):
        alone = ReplayStreams(tables, SPEC, [costs.contexts()], policy=[number * 0.1], streams=5)
        for action in (0, 3, 5):
            mine = play_all(together, constant(action), number)
            assert np.allclose(mine.steps, play_all(alone, constant(action)).steps)
    assert len(together.rates) == 3


def test_a_decision_costs_its_seconds_in_every_round(traces):
    tables, costs = ReplayTables(traces[0], ACTIONS), profile(drafters=3)
    paid = play_all(ReplayStreams.of(tables, SPEC, costs, streams=5), constant(2))
    free = fixed_steps(traces[0], [ACTIONS[2]], costs)[0]
    units = [point.autoregressive_step for point in costs.contexts()]
    extra = (paid.steps - free) / paid.rounds
    assert (extra >= costs.policy / max(units) - 1e-9).all()
    assert (extra <= costs.policy / min(units) + 1e-9).all()


def test_streams_that_have_ended_stay_where_they_are(traces):
    trace = traces[0]
    streams = ReplayStreams.of(ReplayTables(trace, ACTIONS), SPEC, profile(drafters=3), streams=5)
    streams.start(slice(None), np.arange(5))
    for _ in range(40):
        played = streams.step(np.full(5, 4))
    assert played.finished.all() and (streams.at == trace.starts[1:] - 1).all()
