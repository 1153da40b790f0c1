"""A trained actor's choices."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaspec_rl.control.compiled_actor import CompiledChoice
from adaspec_rl.control.learned import Actor, LearnedPolicy
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.decoding.round import Action
from adaspec_rl.engine.cpu.build import library


def random_actor(sizes: list[int], seed: int) -> Actor:
    rng = np.random.default_rng(seed)
    pairs = list(zip(sizes, sizes[1:]))
    weights = tuple(rng.normal(size=pair).astype(np.float32) for pair in pairs)
    return Actor(weights, tuple(rng.normal(size=n).astype(np.float32) for _, n in pairs))


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=4),
    seed=st.integers(0, 1000),
)
def test_compiled_code_prefers_the_same(sizes, seed):
    actor = random_actor(sizes, seed)
    choose = CompiledChoice(library(), actor.weights, actor.biases)
    for observation in np.random.default_rng(seed).normal(size=(10, sizes[0])):
        preferences = actor(observation.astype(np.float32))
        found = choose(observation.astype(np.float32))
        assert preferences[found] == pytest.approx(preferences.max(), abs=1e-4)


def test_a_policy_decides_the_same_after_a_journey_to_another_process():
    spec = ObservationSpec(("context",))
    actions = tuple(Action(length) for length in range(7))
    policy = LearnedPolicy(random_actor([len(spec), 16, 7], 3), actions, spec)
    seen = np.random.default_rng(0).normal(size=(20, len(spec))).astype(np.float32)
    chosen = [policy.decide(one) for one in seen]
    again = pickle.loads(pickle.dumps(policy))
    assert [again.decide(one) for one in seen] == chosen and len(set(chosen)) > 1
