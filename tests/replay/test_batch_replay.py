"""Batches of replayed rows: one row is a session, and rows share a round's cost."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from adaspec_rl.control.batch_controller import Load
from adaspec_rl.control.batching.budget import VerificationBudget
from adaspec_rl.control.batching.fixed import FixedForAll
from adaspec_rl.control.batching.rule import BatchRule
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.costs.batch_costs import BatchCosts, DrafterCosts
from adaspec_rl.costs.forward_costs import ForwardCosts
from adaspec_rl.costs.profile import CostProfile, RoundCosts
from adaspec_rl.decoding.round import Action
from adaspec_rl.envs.replay import nominal_costs
from adaspec_rl.replay.batch_replay import (
    BatchReplay,
    DecisionCosts,
    measure_deciding,
    replay,
)
from adaspec_rl.replay.batch_rows import BatchTables
from adaspec_rl.replay.session import ReplaySession
from tests.recording.recordings import toy_trace

ACTIONS = (Action(0), Action(1), Action(4), Action(3, 1), Action(4, 0, 0.3), Action(4, 1, 0.2))


def of_one_text(point: RoundCosts) -> BatchCosts:
    """The same costs for a batch of one row."""
    widths = tuple(range(1, len(point.verification) + 1))
    seconds = (point.autoregressive_step, *point.verification[1:])
    target = ForwardCosts((1,), widths, (1,), ((tuple((s,) for s in seconds)),))
    drafters = tuple(
        DrafterCosts(ForwardCosts((1,), (1, 2), (1,), (((step,), (step + more,)),)), stop, once)
        for step, more, stop, once in zip(
            point.draft_step, point.catch_up, point.stopping_step, point.overhead
        )
    )
    return BatchCosts("one text", target, drafters)


class Recorded(BatchRule):
    """Random actions; keeps what it is told."""

    name = "random"
    allots = True

    def __init__(self, rows_seen=None, keep=None, observes=None):
        self.rng = np.random.default_rng(0)
        self.keep = keep  # at most as many tokens verified
        self.observes = observes
        self.actions, self.rounds, self.seen = [], [], []

    def decide(self, rows, observations, load: Load):
        made = [ACTIONS[self.rng.integers(len(ACTIONS))] for _ in rows]
        self.actions.append(dict(zip(rows, made)))
        self.seen.append(observations)
        return made

    def allot(self, rows, survivals):
        most = 99 if self.keep is None else self.keep
        return [min(most, len(survival)) for survival in survivals]

    def observe(self, rows, rounds, seconds):
        self.rounds.append(dict(zip(rows, rounds)))


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    return toy_trace(tmp_path_factory.mktemp("trace"))


def test_one_row_plays_the_rounds_of_a_session(trace):
    point = replace(nominal_costs(2, 4).points[0], draft_step=(0.1, 0.3), catch_up=(0.001, 0.02))
    session = ReplaySession(trace, CostProfile("nominal", 0.0, (point,)))
    controller = Recorded()
    controller.allots = False  # as in a session, nothing is estimated
    batch = BatchReplay(BatchTables(trace), of_one_text(point), controller, 1)
    for number, text in enumerate(trace.texts):
        batch.admit(0, number)
        session.start(text.prompt.tolist(), text.seed, signals=False)
        while session.finished is None:
            batch.step()
            expected = session.step(controller.actions[-1][0])
            made = controller.rounds[-1][0]
            assert made.seconds == pytest.approx(expected.seconds)
            assert replace(made, seconds=0) == replace(expected, seconds=0, rejected=())
        assert batch.free == [0]


def test_rows_go_their_own_way_and_share_the_cost(trace):
    costs = flat_costs()
    controller = Recorded(keep=2)
    batch = BatchReplay(BatchTables(trace), costs, controller, 3)
    for row, text in enumerate((4, 0, 2)):
        batch.admit(row, text)
    texts = {row: [] for row in range(3)}
    while len(batch.free) < 3:
        played = batch.step()
        rounds = controller.rounds[-1]
        drafted = played.rounds.drafted
        deepest = sum(drafted[played.rounds.drafter == d].max(initial=0) for d in range(2))
        verified = sum(round_.drafted for round_ in rounds.values())
        assert played.seconds == pytest.approx(10 + len(rounds) + verified + 0.5 * deepest)
        for row, round_ in rounds.items():
            assert round_.drafted == min(2, drafted[row])
            texts[row] += round_.tokens
    for row, text in enumerate((4, 0, 2)):
        assert texts[row] == trace.texts[text].tokens.tolist()


def flat_costs() -> BatchCosts:
    """A pass of the target takes 10 s and 1 s a token, a level of drafting 0.5 s."""
    tokens = tuple(tuple((10.0 + rows * width,) for width in (1, 2)) for rows in (1, 2))
    level = DrafterCosts(ForwardCosts((1,), (1,), (1,), (((0.5,),),)))
    return BatchCosts("flat", ForwardCosts((1, 2), (1, 2), (1,), tokens), (level, level))


def test_observations_are_those_of_the_row_alone(trace):
    spec = ObservationSpec(("history", "drafters", "context"), 4, 16, 2)

    def seen_by_row(rows: int) -> list[np.ndarray]:
        controller = Recorded(observes=spec)
        controller.decide = lambda r, o, load: (  # type: ignore[method-assign]
            controller.seen.append(dict(zip(r, o))),
            [Action(3) for _ in r],
        )[1]
        batch = BatchReplay(BatchTables(trace), flat_costs(), controller, rows)
        for row in range(rows):
            batch.admit(row, 1 if row == rows - 1 else 0)
        while batch.state.active[rows - 1]:
            batch.step()
        return [seen[rows - 1] for seen in controller.seen if rows - 1 in seen]

    alone, among = seen_by_row(1), seen_by_row(3)
    assert len(alone) > 2
    np.testing.assert_array_equal(alone, among)


def test_a_full_batch_decodes_every_text(trace):
    tables = BatchTables(trace)
    plain = replay(tables, flat_costs(), FixedForAll(0), [0, 1, 2, 3, 4] * 2, 2)
    assert plain.throughput == pytest.approx(2 / 12)
    drafts = {1: Action(4)}
    budget = replay(
        tables, flat_costs(), VerificationBudget(flat_costs(), drafts), [0, 1, 2, 3, 4] * 2, 2
    )
    assert 0 < budget.verified < budget.drafted
    assert budget.throughput > plain.throughput


def test_what_was_not_recorded_is_refused(trace):
    batch = BatchReplay(BatchTables(trace), flat_costs(), FixedForAll(5), 1)
    batch.admit(0, 0)
    with pytest.raises(ValueError, match="drafts 5 tokens but the trace holds drafts of up to 4"):
        batch.step()


def test_every_controller_is_charged_what_it_takes(tmp_path) -> None:
    """By a clock that ticks once a call: two ticks around deciding, allotting and learning each."""
    tables = BatchTables(toy_trace(tmp_path))
    ticks = itertools.count()
    found = measure_deciding(
        tables,
        flat_costs(),
        lambda rows: FixedForAll(2),
        sizes=(1, 2, 4),
        rounds=6,
        clock=lambda: float(next(ticks)),
    )
    assert found.looking == (0.0, 0.0) and found.other == pytest.approx((3.0, 0.0))
    free, charged = (
        replay(tables, flat_costs(), FixedForAll(2), [0, 1, 2], 2, deciding)
        for deciding in (None, DecisionCosts(other=(3.0, 0.5)))
    )
    more = (charged.seconds.sum() - free.seconds.sum()) / free.rounds
    assert more == pytest.approx(4.0) and charged.rounds == free.rounds
