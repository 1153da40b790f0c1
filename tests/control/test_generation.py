"""Generating under a controller: everything it is given, everything it is told, all of the time."""

import itertools
from collections.abc import Sequence

import numpy as np

from adaspec_rl.control.action import action_list
from adaspec_rl.control.baselines.fixed import FixedLength
from adaspec_rl.control.generation import follow, generate
from adaspec_rl.control.guard import Guarded
from adaspec_rl.control.learned import Actor, LearnedPolicy
from adaspec_rl.control.observation import CostFeatures, ObservationSpec
from adaspec_rl.control.stream_observer import StreamObserver
from adaspec_rl.decoding.round import FALLBACK, Action
from tests.toy import ToyModel, greedy_text, similar, toy_session

COST = CostFeatures(0.1, 0.02, 0.05)


class Recorder:
    """Drafts 2 and 0 tokens in turn, and remembers what it saw."""

    name = "recorder"
    observes = ObservationSpec(("history", "target"))

    def reset(self, prompt: Sequence[int] = (), seed: int = 0) -> None:
        self.seen, self.told = [], []

    def decide(self, observation):
        self.seen.append(observation)
        return Action(2) if len(self.seen) % 2 else FALLBACK

    def observe(self, round_) -> None:
        self.told.append(round_)


def test_controllers_see_observations_and_learn_of_rounds():
    target = ToyModel(seed=1)
    session = toy_session(target, [similar(target, 0.2)], max_new_tokens=15)
    controller = Recorder()
    made = generate(session, controller, [1, 2], cost=COST)
    assert made.tokens == greedy_text(target, [1, 2], 15) and made.finished == "length"
    assert controller.told == made.rounds and len(controller.seen) == len(made.rounds)
    assert all(seen.shape == (len(controller.observes),) for seen in controller.seen)
    names = controller.observes.names
    second = dict(zip(names, controller.seen[1]))
    assert second["drafted_1_ago"] == made.rounds[0].drafted / 8
    assert second["target_entropy"] > 0


def test_nobody_looks_while_a_guard_decodes_plainly(monkeypatch):
    target, asked = ToyModel(seed=1), []
    session = toy_session(target, [similar(target, 9.0)], max_new_tokens=80)

    def forecast(tables):
        asked.append(len(session.tokens))
        return (len(asked), 0.5)

    monkeypatch.setattr(session, "forecast", forecast)
    controller = Recorder()
    monkeypatch.setattr(controller, "observes", ObservationSpec(("history", "lookup")))
    made = generate(session, Guarded(controller), [1, 2], cost=COST)
    looked = [number for number, ahead in enumerate(made.forecasts) if ahead]
    assert 0 < len(looked) == len(asked) == len(controller.seen) < len(made.rounds) // 2
    observer = StreamObserver(controller.observes, COST)
    relived = [observer.observation() for _ in follow(observer, [1, 2], made)]
    np.testing.assert_array_equal([relived[number] for number in looked], controller.seen)


def test_time_is_accounted_by_the_clock():
    ticks = itertools.count()
    target = ToyModel(seed=1)
    session = toy_session(target, [similar(target, 0.2)], max_new_tokens=4)
    made = generate(session, FixedLength(0), [1], cost=COST, clock=lambda: float(next(ticks)))
    assert len(made.rounds) == 4
    assert made.seconds == 4 * 4 + 1  # four readings a round, one at the start, one at the end
    assert made.controller_seconds == 4 * 2


def test_the_actor_is_a_tanh_network_and_the_policy_takes_its_best_action():
    rng = np.random.default_rng(0)
    spec = ObservationSpec(("history",))
    sizes = [len(spec), 8, 4]
    weights = tuple(rng.normal(size=(a, b)).astype(np.float32) for a, b in zip(sizes, sizes[1:]))
    biases = tuple(rng.normal(size=b).astype(np.float32) for b in sizes[1:])
    actor = Actor(weights, biases)
    x = rng.normal(size=len(spec)).astype(np.float32)
    expected = np.tanh(x @ weights[0] + biases[0]) @ weights[1] + biases[1]
    np.testing.assert_allclose(actor(x), expected, rtol=1e-6)
    actions = action_list("length", 3)
    assert LearnedPolicy(actor, actions, spec).decide(x) == actions[int(expected.argmax())]


def test_a_policy_answers_to_an_array_that_was_updated_in_place():
    spec = ObservationSpec(("target",))
    weights = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    policy = LearnedPolicy(
        Actor((weights,), (np.zeros(2, np.float32),)), [FALLBACK, Action(3)], spec
    )
    observation = np.array([1.0, 0.0], dtype=np.float32)
    assert policy.decide(observation) == FALLBACK
    observation[:] = observation[::-1].copy()
    assert policy.decide(observation) == Action(3)
