"""Drafters of every kind, alone and by turns: the target's text, nothing left over."""

import itertools
import pickle
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaspec_rl.decoding.drafters import DraftModel, EarlyExit, NgramLookup, TableDrafter
from adaspec_rl.decoding.round import FALLBACK, Action
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.session import LiveSession
from adaspec_rl.decoding.stopping import RunningSurvival, ThresholdStop
from adaspec_rl.decoding.token_sequence import TokenSequence
from adaspec_rl.decoding.verification import Greedy, PointMass
from adaspec_rl.engine.cpu.build import library
from adaspec_rl.engine.lean_model import LeanModel
from tests.decoding.tables import random_table
from tests.engine.checkpoints import new_model, random_tokens
from tests.recording.recordings import random_head
from tests.toy import ToyModel, exact_distribution, similar, toy_session

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def lean(seed: int = 0, layers: int = 3) -> LeanModel:
    torch.manual_seed(seed)
    model = new_model("llama", **(SHAPE | {"num_hidden_layers": layers}))
    return LeanModel.from_tensors(model.config.to_dict(), model.state_dict().items(), f"m{seed}")


def written(tokens: list[int], room: int | None = None) -> TokenSequence:
    return TokenSequence(tokens, torch.device("cpu"), room)


def every_kind(target: LeanModel) -> list:
    return [
        DraftModel(lean(1), target.vocab_size),
        DraftModel(lean(2, layers=1), target.vocab_size),
        EarlyExit(target, 1),
        NgramLookup(),
        TableDrafter(random_table(target.vocab_size, 3, (0.2, 0.5)), target.vocab_size),
    ]


actions = st.builds(
    Action,
    length=st.integers(0, 6),
    drafter=st.integers(0, 4),
    threshold=st.sampled_from([0.0, 0.3, 0.8]),
)


@pytest.mark.parametrize("rule", ["greedy", "coupled"])
@settings(deadline=None, max_examples=15)
@given(choices=st.lists(actions, min_size=30, max_size=30), seed=st.integers(0, 99))
def test_the_text_does_not_depend_on_the_drafters(rule, choices, seed):
    target = lean()
    texts = []
    for schedule in ([FALLBACK], choices):
        session = LiveSession(
            target,
            every_kind(target),
            max_new_tokens=30,
            sampling=Sampling(0.0 if rule == "greedy" else 0.7),
            verification=rule,
        )
        session.start(random_tokens(1, 9, seed)[0].tolist(), seed=seed)
        played = 0
        while not session.finished:
            session.step(schedule[played % len(schedule)])
            played += 1
        texts.append(session.tokens)
    assert texts[0] == texts[1]


def test_rejection_sampling_keeps_the_distribution_whatever_is_looked_up():
    target = ToyModel(vocab_size=3, seed=5, sharpness=1.0)
    session = toy_session(target, [NgramLookup()], max_new_tokens=3, temperature=1.0)
    prompt = [0, 1, 2, 0, 1]
    seen = np.zeros((3, 3, 3))
    count, drafted = 4000, 0
    for seed in range(count):
        session.start(prompt, seed)
        while not session.finished:
            drafted += session.step(Action(2)).drafted
        seen[tuple(session.tokens)] += 1
    expected = count * exact_distribution(target, prompt, 3, 1.0)
    assert drafted > count
    chi_square = ((seen - expected) ** 2 / expected).sum()
    assert chi_square < 58.0  # 26 degrees of freedom: exceeded once in 4,000 times


def test_a_lookup_continues_as_the_text_did_before():
    lookup = NgramLookup()
    text = written([5, 1, 2, 3, 4, 9, 1, 2], room=12)
    assert lookup.propose(text, 4, Greedy()).tokens.tolist() == [3, 4, 9, 1]
    text.extend([3, 7])  # 7 is new
    draft = lookup.propose(text, 4, Greedy())
    assert len(draft) == 0 and draft.tokens.dtype == torch.int64
    text.extend([2, 3])  # followed by 4 and, later, by 7
    assert lookup.propose(text, 2, Greedy()).tokens.tolist() == [7, 2]
    assert len(lookup.propose(written([1, 2]), 4, Greedy())) == 0


def test_a_lookup_stops_when_it_is_told_to():
    class Second:
        def __init__(self) -> None:
            self.told: list[int] = []

        def tell(self, logits, choice: PointMass) -> None:
            assert logits is None
            self.told.append(choice.token)

        def __call__(self) -> bool:
            return len(self.told) == 2

    stop = Second()
    draft = NgramLookup().propose(written([1, 2, 3, 4, 1]), 6, Greedy(), stop)
    assert draft.tokens.tolist() == stop.told == [2, 3]


@pytest.mark.parametrize("log_probs", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.6])
def test_a_lookup_in_compiled_code(log_probs: bool, threshold: float, monkeypatch) -> None:
    library()
    head, rng, drafted = random_head(20, 1, log_probs), random.Random(0), 0
    compiled = NgramLookup._compiled
    for _ in range(40):
        text = written([rng.randrange(6) for _ in range(rng.randrange(1, 30))])
        length = rng.randrange(1, 7)
        found = []
        for way in (compiled, lambda self, *given: None):
            monkeypatch.setattr(NgramLookup, "_compiled", way)
            automaton = text.automaton
            running = RunningSurvival(head, automaton, text.tokens[-1])
            stop = ThresholdStop(threshold, running)
            draft = NgramLookup().propose(text, length, Greedy(), stop)
            unstopped = NgramLookup().propose(text, length, Greedy())
            found.append((draft.tokens.tolist(), unstopped.tokens.tolist(), running.chances))
        (tokens, free, chances), (expected, expected_free, expected_chances) = found
        assert tokens == expected and free == expected_free and len(chances) == len(tokens)
        # The other way leaves out the last token's, as nothing follows it.
        assert chances[: len(expected_chances)] == pytest.approx(expected_chances)
        assert len(tokens) - len(expected_chances) in (0, 1)
        drafted += len(tokens)
    assert drafted > 30


def test_a_lookup_that_finds_nothing_makes_a_plain_round():
    target = ToyModel(seed=1)
    session = toy_session(target, [NgramLookup()])
    session.start([3])
    played = session.step(Action(4))
    assert (played.drafted, played.accepted, len(played.tokens)) == (0, 0, 1)
    assert target.forwards[-1] == 1


@pytest.mark.parametrize("layers", [1, 2])
def test_an_early_exit_drafts_what_the_first_layers_say(layers):
    target = lean()
    exit_ = EarlyExit(target, layers)
    prompt = random_tokens(1, 12, 3)[0]
    target.prefill(prompt[None, :-1])
    before = target._cache.data.data_ptr()
    draft = exit_.propose(written(prompt.tolist()), 4, Greedy())
    assert target.lengths.tolist() == [11]  # as if nothing had happened
    assert target._cache.data.data_ptr() == before  # and in the same memory
    text = prompt.tolist()
    for token in draft.tokens.tolist():
        target.reset()
        logits = target.forward(torch.tensor([text]), layers=layers)[0, -1]
        assert token == int(logits.argmax())
        text.append(token)


def test_an_early_exit_must_lie_inside_the_target():
    for layers in (0, 3, 7):
        with pytest.raises(ValueError, match=f"after layer 1 to 2 of its 3, got {layers}"):
            EarlyExit(lean(), layers)


def test_switching_in_every_round_leaves_no_trace():
    target = lean()
    session = LiveSession(target, every_kind(target), max_new_tokens=90)
    prompt = random_tokens(1, 8, 1)[0].tolist()
    session.start(prompt)
    while not session.finished:
        session.step(FALLBACK)
    expected = session.tokens
    rng = random.Random(0)
    for _ in range(4):
        session.start(prompt)
        drafter = 0
        while not session.finished:
            drafter = (drafter + 1 + rng.randrange(4)) % 5
            session.step(Action(rng.randrange(1, 6), drafter))
        assert session.tokens == expected


def test_an_idle_drafter_does_nothing_until_it_is_used():
    target = ToyModel(seed=2, context_length=300)
    idle, busy = similar(target, 0.0, seed=7), similar(target, 0.3)
    session = toy_session(target, [busy, idle], max_new_tokens=200)
    session.start([1, 2, 3])
    for _ in range(20):
        session.step(Action(2, 0))
    assert idle.forwards == []
    held = 3 + len(session.tokens)
    assert session.step(Action(3, 1)).accepted == 3
    assert idle.forwards == [held, 1, 1]  # all of the text in one pass


def alone(session: LiveSession, prompt: list[int], seed: int, schedule: list[Action]) -> list[int]:
    """A text that nothing else interrupts."""
    session.start(prompt, seed)
    for turn in itertools.count():
        if session.finished:
            return session.tokens
        session.step(schedule[turn % len(schedule)])


RULES = [("greedy", 0.0), ("coupled", 0.8), ("rejection", 0.8)]
SCHEDULE = [Action(3, 0), Action(2, 2), FALLBACK, Action(4, 3), Action(3, 4), Action(2, 1)]


@pytest.mark.parametrize(("rule", "temperature"), RULES)
def test_sessions_that_take_turns_write_what_each_would_write_alone(rule, temperature):
    target = lean()
    drafters = every_kind(target)
    first, second = (
        LiveSession(
            target,
            drafters,
            max_new_tokens=40,
            sampling=Sampling(temperature),
            verification=rule,
        )
        for _ in range(2)
    )
    prompts = [random_tokens(1, length, length)[0].tolist() for length in (9, 5)]
    expected = [alone(first, prompt, 3, SCHEDULE) for prompt in prompts]
    first.start(prompts[0], 3)
    second.start(prompts[1], 3)
    for turn in itertools.count():
        for session in (first, second):
            if not session.finished:
                session.step(SCHEDULE[turn % len(SCHEDULE)])
        if turn % 4 == 0:
            target.prefill(torch.tensor([[1, 2, 3]]))  # and so may anybody else
            drafters[0].model.reset(3)
        if first.finished and second.finished:
            break
    assert [first.tokens, second.tokens] == expected


@pytest.mark.parametrize(("rule", "temperature"), RULES)
def test_a_session_pickled_in_mid_text_goes_on_with_the_same_text(rule, temperature):
    target = lean()
    session = LiveSession(
        target,
        every_kind(target),
        max_new_tokens=40,
        sampling=Sampling(temperature),
        verification=rule,
    )
    prompt = random_tokens(1, 9, 4)[0].tolist()
    expected = alone(session, prompt, 5, SCHEDULE)
    session.start(prompt, 5)
    for action in SCHEDULE:
        session.step(action)
    copied = pickle.loads(pickle.dumps(session))
    other = alone(session, [1, 2, 3], 0, SCHEDULE)  # the original goes elsewhere
    turn = len(SCHEDULE)
    while not copied.finished:
        copied.step(SCHEDULE[turn % len(SCHEDULE)])
        turn += 1
    assert copied.tokens == expected
    assert alone(copied, [1, 2, 3], 0, SCHEDULE) == other  # and so does whatever it begins next
