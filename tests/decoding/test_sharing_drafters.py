"""Drafters with a trimmed output, and those that read hidden states: the text is the target's."""

import itertools
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaspec_rl.decoding.drafters import DraftModel, NgramLookup, Offloading
from adaspec_rl.decoding.round import FALLBACK, Action
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.session import LiveSession
from adaspec_rl.decoding.survival import ProductSurvival, Survival
from adaspec_rl.decoding.token_sequence import TokenSequence
from adaspec_rl.decoding.verification import Greedy, new_verification
from adaspec_rl.engine.lean_model import LeanModel
from tests.decoding.actions import anything
from tests.device import DEVICE, stand_in
from tests.engine.checkpoints import VOCAB, random_tokens
from tests.recording.recordings import random_head
from tests.sharing import KINDS, TOKENS, sharing_drafters
from tests.toy import ToyModel, exact_distribution, similar, toy_session

RULES = {"greedy": Sampling(), "coupled": Sampling(0.8, top_p=0.95), "rejection": Sampling(0.8)}


class TrimmedToy(ToyModel):
    """A toy whose logits are those of some tokens only."""

    def __init__(self, model: ToyModel, ids: Sequence[int]) -> None:
        super().__init__(model.vocab_size, context_length=model.context_length)
        self.table = model.table
        self.output_tokens = torch.tensor(ids)

    def logits(self, text: Sequence[int]) -> torch.Tensor:
        return super().logits(text)[self.output_tokens]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[LeanModel, list[DraftModel]]:
    return sharing_drafters(tmp_path_factory.mktemp("models"))


def session_of(
    models: tuple[LeanModel, list[DraftModel]], rule: str, *, count: int = 30, head: bool = False
) -> LiveSession:
    target, drafters = models
    every = [*drafters, NgramLookup()]
    survival: list[Survival] = [
        random_head(VOCAB, number) if head else ProductSurvival() for number in range(len(every))
    ]
    return LiveSession(
        target,
        every,
        eos_ids=[59],
        max_new_tokens=count,
        sampling=RULES[rule],
        verification=rule,
        survival=survival,
    )


def written(
    session: LiveSession, prompt: list[int], seed: int, schedule: Sequence[Action]
) -> tuple[list[int], str | None]:
    session.start(prompt, seed)
    for turn in itertools.count():
        if session.finished:
            return session.tokens, session.finished
        session.step(schedule[turn % len(schedule)])


ACTIONS = anything(4)


@pytest.mark.parametrize("rule", ["greedy", "coupled"])
@settings(deadline=None, max_examples=10)
@given(
    choices=st.lists(ACTIONS, min_size=1, max_size=20),
    seed=st.integers(0, 99),
    prompt=st.one_of(st.integers(1, 12), st.integers(100, 127)),  # up to the context's end
    head=st.booleans(),
)
def test_the_text_does_not_depend_on_the_drafters(models, rule, choices, seed, prompt, head):
    ids = random_tokens(1, prompt, seed)[0].tolist()
    session = session_of(models, rule, head=head)
    plain = written(session, ids, seed, [FALLBACK])
    assert written(session, ids, seed, choices) == plain


@pytest.mark.parametrize("rule", RULES)
def test_drafts_are_of_the_trimmed_output(models, rule):
    target, drafters = models
    for drafter in (drafters[0], drafters[2]):
        session = LiveSession(
            target, [drafter], max_new_tokens=60, sampling=RULES[rule], verification=rule
        )
        session.start([1, 2, 3], 1)
        outside = accepted = 0
        while not session.finished:
            played = session.step(Action(4))
            drafted = (*played.tokens[: played.accepted], *played.rejected)
            assert len(drafted) == played.drafted and set(drafted) <= set(TOKENS)
            accepted += played.accepted
            outside += played.tokens[-1] not in TOKENS
            assert np.isfinite(played.draft_log_probs).all()
            assert max(played.draft_log_probs, default=0.0) <= 1e-6
            assert max(played.draft_entropies, default=0.0) <= np.log(len(TOKENS))
        assert outside  # what the drafter cannot say ends drafts, and is said


class Misled(DraftModel):
    """Says that it drew its tokens from others."""

    told = torch.tensor([1, 2])

    def propose(self, *arguments):
        return replace(super().propose(*arguments), ids=self.told)


def chi_square(ids: Sequence[int], kind: type[DraftModel] = DraftModel) -> tuple[float, int]:
    """Of texts of 3 tokens by rejection against the target's own, and how many were drafted."""
    target = ToyModel(vocab_size=3, seed=5, sharpness=1.0)
    drafter = kind(TrimmedToy(similar(target, 0.3), ids), 3)
    session = toy_session(target, [drafter], max_new_tokens=3, temperature=1.0)
    seen = np.zeros((3, 3, 3))
    count, accepted = 4000, 0
    for seed in range(count):
        session.start([0, 1, 2], seed)
        while not session.finished:
            accepted += session.step(Action(2)).accepted
        seen[tuple(session.tokens)] += 1
    expected = count * exact_distribution(target, [0, 1, 2], 3, 1.0)
    return float(((seen - expected) ** 2 / expected).sum()), accepted


@pytest.mark.parametrize("ids", [[0, 2], [1]])
def test_rejection_keeps_the_distribution(ids):
    found, accepted = chi_square(ids)
    assert accepted > 1000
    assert found < 58.0  # 26 degrees of freedom: exceeded once in 4,000 times


def test_rejection_with_wrong_ids_would_be_noticed():
    assert chi_square([0, 2], Misled)[0] > 58.0


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_trimmed_drafter_drafts_as_the_whole_one_would_without_the_others(temperature):
    """The same noise at the same tokens: argmax over the rows alone."""
    target = ToyModel(seed=1)
    whole, ids = similar(target, 0.2), [1, 2, 4, 7]
    rule = new_verification("coupled", Sampling(temperature), 3, 8, torch.device("cpu"))
    drafter = DraftModel(TrimmedToy(whole, ids), 8)
    text = TokenSequence([1, 5, 3], torch.device("cpu"))
    drafted = drafter.propose(text, 5, rule)
    tokens, written = drafted.tokens.tolist(), [1, 5, 3]
    for depth, token in enumerate(tokens):
        logits = torch.full((8,), -torch.inf)
        logits[ids] = whole.logits(written)[ids]
        _, scores = rule.weigh(logits[None], [3 + depth])
        assert token == int(scores[0].argmax())
        written.append(token)
    assert set(tokens) <= set(ids)


def test_hidden_states_are_the_targets_up_to_the_text_and_the_drafters_own_beyond(models):
    target, drafters = models
    drafter = drafters[1]
    text = random_tokens(1, 12, 3)
    target.prefill(text[:, :-1])
    target.rollback(0)
    target.extend(text[:, :-1])
    known = target.last_hidden
    sequence = TokenSequence(text[0].tolist(), torch.device("cpu"), hidden_size=32)
    sequence.know(0, known[0])
    drafter.start()
    tokens = drafter.propose(sequence, 4, Greedy()).tokens.tolist()
    features = torch.cat([torch.zeros(1, 1, 32), known], dim=1)
    for depth, token in enumerate(tokens):
        drafter.model.reset()
        logits = drafter.model.extend(text, features=features)[0, -1]
        assert token == int(logits.argmax()), depth
        features = torch.cat([features, drafter.model.last_hidden[:, -1:]], dim=1)
        text = torch.cat([text, torch.tensor([[token]])], dim=1)


@pytest.mark.parametrize("rule", RULES)
def test_what_was_drafted_before_leaves_no_trace(models, rule):
    """Committed positions are read with the target's states, whoever drafted them."""
    target, drafters = models
    drafter = drafters[2]
    session = LiveSession(
        target, [drafter], max_new_tokens=30, sampling=RULES[rule], verification=rule
    )
    session.start([1, 2, 3], 4)
    for _ in range(6):
        session.step(Action(3))
        assert session.finished is None
        found = drafter.propose(session.sequence, 4, Greedy()).logits
        drafter.forget()
        assert torch.equal(found, drafter.propose(session.sequence, 4, Greedy()).logits)
        drafter.keep(len(session.sequence) - 1)  # the last token is read in the next round


@pytest.mark.parametrize("rule", RULES)
def test_sessions_that_take_turns_and_copies_of_them(models, rule):
    schedule = [Action(3, 0), Action(2, 2), FALLBACK, Action(4, 1), Action(2, 3), Action(5, 2)]
    first, second = (session_of(models, rule, count=40) for _ in range(2))
    prompts = [random_tokens(1, length, length)[0].tolist() for length in (9, 1)]
    expected = [written(first, prompt, 3, schedule) for prompt in prompts]
    first.start(prompts[0], 3)
    second.start(prompts[1], 3)
    for turn in itertools.count():
        for session in (first, second):
            if not session.finished:
                session.step(schedule[turn % len(schedule)])
        if turn == 3:
            second = pickle.loads(pickle.dumps(second))
        if first.finished and second.finished:
            break
    assert [(s.tokens, s.finished) for s in (first, second)] == expected


@pytest.mark.parametrize("rule", RULES)
def test_drafters_that_leave_the_device_and_come_back(tmp_path: Path, rule: str) -> None:
    target, drafters = sharing_drafters(tmp_path, ["trimmed", "hidden"])
    prompt = [3, 1, 4, 1, 5]
    schedule = [Action(3, 0), Action(3, 0), Action(3, 1), Action(3, 1), Action(2, 0)]
    options = {"max_new_tokens": 40, "sampling": RULES[rule], "verification": rule}
    expected = written(LiveSession(target, drafters, **options), prompt, 7, schedule)
    offloading = Offloading(idle_rounds=1)
    for drafter in drafters:
        offloading.add(drafter, besides=target.weights)
    own = drafters[0].model.weights
    assert own.embedding is target.weights.embedding
    assert written(LiveSession(target, drafters, **options), prompt, 7, schedule) == expected
    assert offloading.moves > 4
    assert drafters[0].model.weights.embedding.data is target.weights.embedding.data


STOPS = {"none": 0.0, "threshold": 0.3}


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("rule", RULES)
def test_a_round_waits_once_for_the_device(tmp_path: Path, rule: str, stop: str) -> None:
    """And does there what it does here."""

    def rounds(device: torch.device, waits: list[str]) -> list[tuple]:
        target, drafters = sharing_drafters(
            tmp_path / device.type, device=str(device), kernels="torch"
        )
        session = LiveSession(
            target, drafters, max_new_tokens=20, sampling=RULES[rule], verification=rule
        )
        session.start([5, 1, 2, 3, 4, 9, 1, 2], seed=3, signals=stop != "none")
        played = []
        for turn in itertools.count():
            waits.clear()
            found = session.step(Action(4 if turn % 4 else 0, turn % 3, STOPS[stop]))
            assert device.type == "cpu" or waits == ["aten._to_copy.default"]
            played.append((found.drafted, found.accepted, found.tokens))
            if session.finished:
                return played

    here = rounds(torch.device("cpu"), [])
    with stand_in() as device:
        there = rounds(DEVICE, device.waits)
    assert rule == "rejection" or here == there  # generators draw otherwise there


def test_every_kind_is_here():
    assert list(KINDS) == ["trimmed", "hidden", "trimmed hidden"]
