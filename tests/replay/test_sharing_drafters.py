"""Trimmed drafters and readers of hidden states: replay does what decoding would have done."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adaspec_rl.costs.measurement import measure
from adaspec_rl.decoding.drafters import NgramLookup
from adaspec_rl.decoding.round import Action
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.survival import ProductSurvival, Survival
from adaspec_rl.recording.chances import survival_chances
from adaspec_rl.recording.drafts import draft_everywhere, draft_one_by_one
from adaspec_rl.recording.recorder import record
from adaspec_rl.recording.texts import text_rules
from adaspec_rl.replay.session import ReplaySession
from tests.engine.checkpoints import VOCAB, random_tokens
from tests.recording.recordings import Toys, profile, random_head, toy_recording
from tests.replay.test_replay_equals_live import (
    ACTIONS,
    Counting,
    assert_same,
    assert_same_drafts,
    random_text,
)
from tests.sharing import KINDS, SHAPE, TOKENS, sharing_drafters

COSTS = profile(max_length=4, drafters=4)
PROMPTS = [random_tokens(1, length, length)[0].tolist() for length in (5, 1, 9)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Toys:
    target, drafters = sharing_drafters(tmp_path_factory.mktemp("models"))
    return Toys(target, [*drafters, NgramLookup()])  # type: ignore[arg-type]


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    sampling=st.sampled_from([Sampling(), Sampling(0.8), Sampling(1.0, top_k=7, top_p=0.8)]),
    eos_ids=st.sets(st.integers(0, VOCAB - 1), max_size=8),
    head=st.booleans(),
    actions=st.lists(ACTIONS, min_size=1, max_size=12),
    first=st.integers(0, 3),
)
def test_they_replay_as_they_decode(
    pair, tmp_path_factory, sampling, eos_ids, head, actions, first
):
    recording = toy_recording(sampling=sampling, eos_ids=tuple(eos_ids), max_new_tokens=25)
    survival: list[Survival] = [
        random_head(VOCAB, number, sampling.temperature > 0) if head else ProductSurvival()
        for number in range(4)
    ]
    folder = tmp_path_factory.mktemp("traces")
    trace, used = record(pair, recording, PROMPTS, ["any"] * 3, folder, heads=survival)
    live, replay = pair.session(recording, used), ReplaySession(trace, COSTS)
    actions = [replace(action, drafter=(action.drafter + first) % 4) for action in actions]
    for number, prompt in enumerate(PROMPTS):
        assert_same(live, replay, prompt, number, actions)


def test_without_noise_the_chances_are_what_was_accepted(pair, tmp_path) -> None:
    recording = toy_recording(eos_ids=(), max_new_tokens=25)
    trace, _ = record(pair, recording, PROMPTS, ["any"] * 3, tmp_path)
    chances = survival_chances(pair.target, pair.drafters, trace.texts, Sampling(), 4)
    kept = np.array([table.accepted > np.arange(4)[:, None] for table in trace.drafters])
    assert (chances == kept).all() and kept[:, 1].any()


@pytest.mark.slow
def test_chances_are_how_often_tokens_survive(pair, tmp_path) -> None:
    """Those of a reader of hidden states fall with depth, since it knows less there."""
    sampling, runs, depth = Sampling(0.8), 40, 2
    hits, expected = np.zeros((2, len(pair.drafters), depth))
    for run in range(runs):
        recording = toy_recording(sampling=sampling, max_new_tokens=40, seed=100 * run)
        trace, _ = record(pair, recording, PROMPTS, ["any"] * 3, tmp_path / str(run))
        chances = survival_chances(pair.target, pair.drafters, trace.texts, sampling, depth)
        for number, table in enumerate(trace.drafters):
            for k in range(depth):
                reached = table.accepted >= k
                hits[number, k] += (table.accepted > k)[reached].sum()
                expected[number, k] += chances[number, k, reached].sum()
    assert (np.abs(hits - expected) <= 4 * np.sqrt(expected) + 1).all()


@pytest.mark.parametrize("kernels", ["torch", "compiled"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("shapes", [[(9, 30), (1, 22), (20, 60)], [(100, 2), (2, 60)], [(1, 1)]])
def test_side_by_side_as_position_by_position(tmp_path, kernels, temperature, shapes):
    _, drafters = sharing_drafters(tmp_path, kernels=kernels)
    texts = [random_text(p, g, seed) for seed, (p, g) in enumerate(shapes)]
    for kind, drafter in zip(KINDS, drafters):
        rules = text_rules(drafter.model, range(len(texts)), "coupled", Sampling(temperature))
        everywhere = draft_everywhere(drafter, texts, rules, 5)
        for text, rule, found in zip(texts, rules, everywhere):
            assert found.tokens.shape == (len(text.tokens), 5)
            assert_same_drafts(found, draft_one_by_one(drafter, text, rule, 5))
            if kind != "hidden":
                assert set(found.tokens.reshape(-1).tolist()) <= set(TOKENS)


def test_readers_of_hidden_states_draft_anew_at_every_position(tmp_path):
    """A trimmed drafter drafts a text of its own once; a reader knows more one token later."""
    target, (trimmed, hidden) = sharing_drafters(tmp_path, ["trimmed", "hidden"])
    text = random_text(3, 40, 0)
    rule = text_rules(target, [0], "coupled", Sampling())
    for drafter in (trimmed, hidden):
        text.tokens[:] = draft_one_by_one(drafter, text, rule[0], 1).tokens[:, 0]
        for _ in range(45):  # until the text is what the drafter says of it
            text.tokens[:] = draft_one_by_one(drafter, text, rule[0], 1).tokens[:, 0]
        expected = draft_one_by_one(drafter, text, rule[0], 6)
        assert (expected.tokens[:, 0] == text.tokens).all()
        counting = Counting(drafter)
        assert_same_drafts(draft_everywhere(drafter, [text], rule, 6)[0], expected)
        branches = 40 * 5 if drafter is hidden else 5
        assert counting.read == 3 + 40 - 1 + branches
        if drafter is hidden:
            assert (expected.tokens[:-1, 1] != expected.tokens[1:, 0]).any()


def test_costs_are_measured_alone_and_in_batches(tmp_path: Path) -> None:
    target, drafters = sharing_drafters(tmp_path)
    pair = Toys(target, drafters)  # type: ignore[arg-type]
    live = pair.session(toy_recording(max_new_tokens=8), None)
    found = measure(
        live, [[1, 2, 3]], max_length=3, samples=3, contexts=(16,), batch_sizes=(1, 3), seconds=None
    )
    assert [point.batch_size for point in found.points] == [1, 3]
    for point in found.points:
        assert len(point.draft_step) == len(KINDS) and min(point.draft_step) > 0


def test_heads_are_fitted_for_them(pair, tmp_path):
    recording = toy_recording(0.8, survival="head", max_new_tokens=25)
    trace, heads = record(pair, recording, PROMPTS, ["any"] * 3, tmp_path)
    assert [head.name for head in heads] == ["head"] * 4
    assert SHAPE["max_position_embeddings"] > max(len(text.tokens) for text in trace.texts)
    for table in trace.drafters[:3]:
        assert np.isfinite(table.signals).all() and (table.tokens >= 0).any()
    live, replay = pair.session(recording, heads), ReplaySession(trace, COSTS)
    # Judged by heads of other shards, replay estimates otherwise; what is drafted is the same.
    for number, prompt in enumerate(PROMPTS):
        live.start(prompt, number)
        replay.start(prompt, number)
        while not live.finished:
            a, b = live.step(Action(4, 2)), replay.step(Action(4, 2))
            assert (a.drafted, a.accepted, a.tokens) == (b.drafted, b.accepted, b.tokens)
