"""Token trees and drafters that draft together are replayed as they are decoded."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adaspec_rl.data.prompts import balanced, embedded_prompts
from adaspec_rl.decoding.drafters import NgramLookup, TableDrafter
from adaspec_rl.decoding.round import Action, Round
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.session import LiveSession
from adaspec_rl.decoding.tree_shape import TreeShape
from adaspec_rl.engine.cpu.build import compiled
from adaspec_rl.pairs.pair import Pair, load_pair
from adaspec_rl.recording.recorder import Recording, record
from adaspec_rl.replay.session import ReplaySession
from tests.decoding.tables import random_table
from tests.engine.checkpoints import random_tokens
from tests.recording.recordings import PROMPTS, Toys, profile, toy_recording, toys
from tests.recording.trees import shapes
from tests.replay.test_replay_equals_live import DRAFT_SIGNALS, play
from tests.sharing import sharing_drafters

DRAFTERS = 4
COSTS = profile(max_length=8, drafters=DRAFTERS, nodes=64)


def pairs_of(length: int) -> st.SearchStrategy[Action]:
    """Two to four drafters together."""
    return st.builds(
        lambda order, count, length, threshold: Action(
            length, order[0], threshold, also=tuple(order[1:count])
        ),
        st.permutations(range(DRAFTERS)),
        st.integers(2, DRAFTERS),
        st.integers(1, length),
        st.sampled_from([0.0, 0.3]),
    )


TREES = st.builds(
    lambda shape, drafter: Action(shape.depth, drafter, tree=shape),
    shapes(),
    st.integers(0, DRAFTERS - 1),
)
CHAINS = st.builds(Action, st.integers(0, 4), st.integers(0, DRAFTERS - 1))
ACTIONS = st.lists(st.one_of(TREES, TREES, pairs_of(4), CHAINS), min_size=1, max_size=8)


def assert_same_rounds(live: list[Round], replayed: list[Round], short: set[int]) -> None:
    """But for seconds; trees of the drafters `short` may lack nodes, for want of choices."""
    assert len(live) == len(replayed)
    for a, b in zip(live, replayed):
        if a.drafter in short and len(a.levels) == 1:
            assert len(a.levels[0]) <= len(b.levels[0])
            assert all(n <= most for n, most in zip(a.levels[0], b.levels[0]))
            b = replace(b, drafted=a.drafted, levels=a.levels)
        same = replace(b, seconds=a.seconds, target_entropy=0.0, target_top_probability=0.0)
        own = replace(a, target_entropy=0.0, target_top_probability=0.0)
        for name in DRAFT_SIGNALS:
            assert getattr(b, name) == pytest.approx(getattr(a, name), rel=1e-3, abs=1e-3), name
            same = replace(same, **{name: ()})
            own = replace(own, **{name: ()})
        assert own == same
        assert a.reached == b.reached


def assert_same(live: LiveSession, replay: ReplaySession, prompt, seed: int, actions) -> None:
    expected, tokens, finished, _ = play(live, prompt, seed, actions)
    found, replayed, ended, _ = play(replay, prompt, seed, actions)
    tables = {d for d, model in enumerate(live.models) if isinstance(model, TableDrafter)}
    assert_same_rounds(expected, found, tables)
    assert (replayed, ended) == (tokens, finished)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    models=st.integers(1, 9),
    sampling=st.sampled_from([Sampling(), Sampling(0.8)]),
    eos_ids=st.sets(st.integers(0, 7), max_size=2),
    max_new_tokens=st.integers(1, 16),
    actions=ACTIONS,
)
def test_toy_models(tmp_path_factory, models, sampling, eos_ids, max_new_tokens, actions):
    pair = toys(models)
    table = random_table(pair.target.vocab_size, models, (0.3, 0.5) if models % 2 else ())
    pair.drafters = [*pair.drafters, NgramLookup(), TableDrafter(table, pair.target.vocab_size)]
    recording = toy_recording(
        sampling=sampling, eos_ids=tuple(eos_ids), max_new_tokens=max_new_tokens
    )
    folder = tmp_path_factory.mktemp("traces")
    trace, used = record(pair, recording, PROMPTS, ["toy"] * 5, folder, ranks=True)
    live, replay = pair.session(recording, used), ReplaySession(trace, COSTS)
    for number, prompt in enumerate(PROMPTS):
        assert_same(live, replay, prompt, number, actions)


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sampling=st.sampled_from([Sampling(), Sampling(0.8)]), actions=ACTIONS)
def test_trimmed_drafters_and_readers_of_hidden_states(
    sharing, tmp_path_factory, sampling, actions
):
    recording = toy_recording(sampling=sampling, max_new_tokens=25)
    prompts = [random_tokens(1, length, length)[0].tolist() for length in (5, 1, 9)]
    folder = tmp_path_factory.mktemp("traces")
    trace, used = record(sharing, recording, prompts, ["any"] * 3, folder, ranks=True)
    live, replay = sharing.session(recording, used), ReplaySession(trace, COSTS)
    for number, prompt in enumerate(prompts):
        assert_same(live, replay, prompt, number, actions)


@pytest.fixture(scope="module")
def sharing(tmp_path_factory) -> Toys:
    target, drafters = sharing_drafters(tmp_path_factory.mktemp("models"))
    return Toys(target, [*drafters, NgramLookup()])  # type: ignore[arg-type]


def random_shape(rng: np.random.Generator, nodes: int, depth: int) -> TreeShape:
    """A tree of so many nodes, of which early ones have more children."""
    parents: list[int] = []
    depths: list[int] = []
    for node in range(nodes):
        open_ = [-1, *(n for n in range(node) if depths[n] < depth)]
        parents.append(open_[int(len(open_) * rng.random() ** 2)])
        depths.append(1 if parents[-1] < 0 else depths[parents[-1]] + 1)
    return TreeShape(tuple(parents), tuple(parents[:n].count(p) for n, p in enumerate(parents)))


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_two_hundred_prompts_with_random_shapes_drafters_and_budgets(tmp_path, temperature):
    if not compiled("auto"):
        pytest.skip("logits are the same bits at any width in the compiled decoder alone")
    pair: Pair = load_pair(
        "tiny", "tiny:target", ["tiny:draft", "early_exit:3", "ngram", "tiny:table"]
    )
    prompts = [pair.encode(p.text) for p in balanced(embedded_prompts("train"), 67)][:200]
    recording = Recording(
        pair=pair.fingerprint,
        sampling=Sampling(temperature),
        verification="coupled",
        eos_ids=pair.eos_ids,
        max_new_tokens=12,
        max_length=8,
        survival="product",
    )
    trace, used = record(pair, recording, prompts, ["any"] * 200, tmp_path, ranks=True)
    live = pair.session(
        max_new_tokens=12, sampling=recording.sampling, verification="coupled", survival=used
    )
    replay, rng = ReplaySession(trace, COSTS), np.random.default_rng(5)
    for number, prompt in enumerate(prompts):
        actions = []
        for _ in range(3):
            shape = random_shape(rng, int(2 ** rng.integers(0, 7)), int(rng.integers(1, 9)))
            actions.append(Action(shape.depth, int(rng.integers(4)), tree=shape))
            order = rng.permutation(4)[: rng.integers(2, 5)].tolist()
            actions.append(Action(int(rng.integers(1, 9)), order[0], also=tuple(order[1:])))
        assert_same(live, replay, prompt, number, actions)
