"""A live session: lossless, exact in its bookkeeping, frugal in its forward passes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaspec_rl.decoding.round import FALLBACK, Action
from adaspec_rl.decoding.sampling import Sampling
from tests.toy import ToyModel, greedy_text, similar, toy_session

actions = st.builds(
    Action,
    length=st.integers(0, 6),
    drafter=st.integers(0, 1),
    threshold=st.sampled_from([0.0, 0.3, 0.8]),
)


@settings(deadline=None, max_examples=60)
@given(
    choices=st.lists(actions, min_size=40, max_size=40),
    prompt=st.lists(st.integers(0, 7), min_size=1, max_size=10),
    seed=st.integers(0, 1000),
    eos=st.sampled_from([(), (3,), (1, 5)]),
    budget=st.integers(1, 30),
)
def test_greedy_text_does_not_depend_on_the_actions(choices, prompt, seed, eos, budget):
    target = ToyModel(seed=seed)
    session = toy_session(
        target, [similar(target, 0.3), similar(target, 0.9)], eos_ids=eos, max_new_tokens=budget
    )
    session.start(prompt)
    for action in choices:
        if session.finished:
            break
        before = len(session.tokens)
        played = session.step(action)
        assert session.tokens[before:] == list(played.tokens)
        assert played.accepted <= played.drafted <= action.length
        ended = played.tokens[-1] in eos
        assert len(played.tokens) == played.accepted + 1 or (
            ended and len(played.tokens) == played.accepted
        )
    expected = greedy_text(target, prompt, budget, eos)
    assert session.finished is not None
    assert session.tokens == expected
    assert session.finished == ("eos" if expected[-1] in eos else "length")


@settings(deadline=None, max_examples=25)
@given(choices=st.lists(actions, min_size=30, max_size=30), seed=st.integers(0, 1000))
def test_coupled_text_depends_on_prompt_and_seed_alone(choices, seed):
    target = ToyModel(seed=seed % 7, sharpness=1.0)
    texts = []
    for schedule in ([FALLBACK] * 30, choices):
        session = toy_session(
            target,
            [similar(target, 0.3), similar(target, 0.9)],
            temperature=0.9,
            verification="coupled",
        )
        session.start([1, 2], seed=seed)
        turn = 0
        while not session.finished:
            session.step(schedule[turn % 30])
            turn += 1
        texts.append(session.tokens)
    assert texts[0] == texts[1]


def test_one_target_forward_a_round_and_one_drafter_forward_a_token():
    target = ToyModel(seed=1)
    drafter = similar(target, 0.4)
    session = toy_session(target, [drafter], max_new_tokens=40)
    session.start([1, 2, 3])
    assert target.forwards == [2]  # the prompt but for its last token
    assert drafter.forwards == []
    for length in (3, 0, 0, 1, 5, 2, 0, 4):
        target.forwards.clear()
        drafter.forwards.clear()
        played = session.step(Action(length))
        assert target.forwards == [played.drafted + 1]
        assert len(drafter.forwards) == played.drafted == length
        assert drafter.forwards[1:] == [1] * max(0, length - 1)  # only the first one catches up


def test_a_fallback_does_no_drafter_work_and_the_drafter_catches_up_later():
    target = ToyModel(seed=2, context_length=1200)
    drafter = similar(target, 0.0)  # always right: any stale state would show as a rejection
    session = toy_session(target, [drafter], max_new_tokens=1100)
    session.start([1, 2, 3])
    session.step(Action(2))
    drafter.forwards.clear()
    for _ in range(1000):
        assert session.step(FALLBACK).drafted == 0
    assert drafter.forwards == []
    played = session.step(Action(4))
    assert drafter.forwards == [1002, 1, 1, 1]  # last draft, bonus, and the fallbacks
    assert played.accepted == 4


def test_threshold_stops_drafting_when_survival_is_unlikely():
    target = ToyModel(seed=3, sharpness=0.1)  # nearly uniform: no token is likely
    session = toy_session(target, [similar(target, 0.0)])
    session.start([1])
    assert session.step(Action(6, threshold=0.5)).drafted == 1
    assert session.step(Action(6)).drafted == 6


def test_signals_describe_the_distributions():
    target = ToyModel(seed=4)
    drafter = similar(target, 0.2)
    session = toy_session(target, [drafter])
    session.start([1, 2])
    played = session.step(Action(1))
    log_probs = drafter.logits([1, 2]).log_softmax(-1)
    best = log_probs.sort(descending=True).values
    assert played.draft_log_probs[0] == pytest.approx(float(best[0]))
    assert played.draft_margins[0] == pytest.approx(float(best[0] - best[1]), abs=1e-6)
    entropy = torch.distributions.Categorical(logits=drafter.logits([1, 2])).entropy()
    assert played.draft_entropies[0] == pytest.approx(float(entropy), abs=1e-6)
    last = [1, 2, *played.tokens[:-1]]
    target_probs = target.logits(last).softmax(-1)
    assert played.target_top_probability == pytest.approx(float(target_probs.max()), abs=1e-6)


def test_end_of_text_inside_an_accepted_draft_ends_the_output_there():
    target = ToyModel(seed=5)
    text = greedy_text(target, [1, 2], 12)
    eos = text[2]
    session = toy_session(target, [similar(target, 0.0)], eos_ids=[eos])
    session.start([1, 2])
    played = session.step(Action(6))
    end = text.index(eos) + 1
    assert session.finished == "eos"
    assert list(played.tokens) == session.tokens == text[:end]
    assert played.accepted == end
    assert played.reached == end  # what was drafted beyond it was never looked at


@pytest.mark.parametrize("budget", [1, 2, 7])
def test_token_budget_is_exact(budget):
    target = ToyModel(seed=6)
    session = toy_session(target, [similar(target, 0.0)], max_new_tokens=budget)
    session.start([1])
    while not session.finished:
        session.step(Action(4))
    assert len(session.tokens) == budget
    assert session.finished == "length"


def test_context_limit_ends_the_text():
    target = ToyModel(seed=7, context_length=12)
    session = toy_session(target, [similar(target, 0.0)], max_new_tokens=50)
    prompt = [1, 2, 3, 4, 5]
    session.start(prompt)
    while not session.finished:
        session.step(Action(5))
    assert session.finished == "context"
    assert session.tokens == greedy_text(target, prompt, 7)


def test_a_drafter_with_a_shorter_context_stops_drafting():
    target = ToyModel(seed=8, context_length=40)
    drafter = similar(target, 0.0)
    drafter.context_length = 10
    session = toy_session(target, [drafter], max_new_tokens=20)
    session.start([1, 2, 3, 4])
    drafted = []
    while not session.finished:
        drafted.append(session.step(Action(3)).drafted)
    assert session.tokens == greedy_text(target, [1, 2, 3, 4], 20)
    assert drafted[0] == 3 and drafted[-1] == 0


def test_misuse_is_refused_in_one_sentence():
    target = ToyModel(context_length=8)
    session = toy_session(target, [similar(target, 0.1)])
    with pytest.raises(ValueError, match="call start"):
        session.step(FALLBACK)
    with pytest.raises(ValueError, match="empty"):
        session.start([])
    with pytest.raises(ValueError, match="8 tokens but the context .* holds 8"):
        session.start([1] * 8)
    with pytest.raises(ValueError, match="token 99 is not in the vocabulary"):
        session.start([99])
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, got 0"):
        toy_session(target, [], max_new_tokens=0)
    with pytest.raises(ValueError, match="unknown verification 'maybe'"):
        toy_session(target, [], verification="maybe")
    with pytest.raises(ValueError, match="greedy.*needs temperature 0"):
        toy_session(target, [], verification="greedy", temperature=1.0)
    with pytest.raises(ValueError, match="temperature must be at least 0"):
        Sampling(-1.0)
    session.start([1])
    with pytest.raises(ValueError, match="no drafter number 3"):
        session.step(Action(2, drafter=3))
