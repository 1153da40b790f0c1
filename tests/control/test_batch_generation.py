"""Texts that take rows as these become free."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from adaspec_rl.control.batch_controller import Load
from adaspec_rl.control.batch_generation import Asked, generate_batch
from adaspec_rl.control.generation import generate
from adaspec_rl.control.learned import Actor, LearnedPolicy
from adaspec_rl.control.observation import GROUPS, CostFeatures, ObservationSpec
from adaspec_rl.decoding.batch import Batch
from adaspec_rl.decoding.drafters import DraftModel, NgramLookup
from adaspec_rl.decoding.round import FALLBACK, Action, Round
from adaspec_rl.decoding.session import LiveSession
from adaspec_rl.decoding.text import DecodingRules
from tests.decoding.test_batch import lean, prompts

RULES = DecodingRules(frozenset([59]), 20)
COST = CostFeatures(0.2, 0.1, 0.05, 1, (0.01,))


class Recorder:
    """Drafts at random, verifies half, and keeps what it is told."""

    name = "recorder"
    allots = True
    looks: bool = True

    def __init__(self, spec: ObservationSpec | None = None, policy: LearnedPolicy | None = None):
        self.observes, self._policy = spec, policy
        self.loads: list[Load] = []
        self.admitted: list[tuple[int, int]] = []
        self.seen: dict[int, list[np.ndarray]] = {}
        self._chance = np.random.default_rng(0)

    def reset(self, rows: int) -> None:
        self.rows = rows

    def admit(self, row: int, prompt: Sequence[int], seed: int) -> None:
        self.admitted.append((row, seed))

    def decide(
        self, rows: Sequence[int], observations: np.ndarray | None, load: Load
    ) -> list[Action]:
        self.loads.append(load)
        if observations is not None:
            for row, values in zip(rows, observations):
                self.seen.setdefault(row, []).append(values)
        if self._policy is not None and observations is not None:
            return [self._policy.decide(values) for values in observations]
        return [Action(int(self._chance.integers(0, 5)), int(n) % 2) for n in rows]

    def allot(self, rows: Sequence[int], survivals: Sequence[Sequence[float]]) -> list[int]:
        if self._policy is not None:
            return [len(own) for own in survivals]
        return [(len(own) + 1) // 2 for own in survivals]

    def observe(self, rows: Sequence[int], rounds: Sequence[Round], seconds: float) -> None:
        assert len(rows) == len(rounds) and seconds > 0


def batch_of(rows: int, **options: bool) -> Batch:
    target = lean(0)
    drafters = [DraftModel(lean(1), target.vocab_size), NgramLookup()]
    return Batch(target, drafters, rows, rules=RULES, **options)


def test_texts_are_decoded_in_order_of_arrival_as_rows_become_free() -> None:
    texts = prompts(9, seed=4)
    controller = Recorder()
    made = generate_batch(
        batch_of(3), controller, [Asked(text, seed) for seed, text in enumerate(texts)]
    )
    single = generate_batch(batch_of(1), Recorder(), [Asked(text) for text in texts])
    assert [answer.tokens for answer in made.answers] == [a.tokens for a in single.answers]
    assert [seed for _, seed in controller.admitted] == list(range(9))
    assert controller.loads[0] == Load(3, 6, sum(len(text) for text in texts[:3]) / 3)
    last = controller.loads[-1]
    assert last.waiting == 0 and last.context > max(len(text) for text in texts)
    assert {row for row, _ in controller.admitted} == {0, 1, 2}
    assert all(0 < a.first <= a.ended <= made.seconds for a in made.answers)
    assert made.rounds == len(controller.loads)
    written = sum(len(answer.tokens) for answer in made.answers)
    assert 0 < made.full_tokens < written and 0 < made.full_seconds < made.seconds
    assert single.full_tokens == single.tokens == written
    assert single.full_share_seconds == single.full_seconds + single.reading_seconds
    share = (made.full_share_seconds - made.full_seconds) / made.reading_seconds
    assert share == pytest.approx(made.full_tokens / written)
    assert made.full_seconds + made.reading_seconds < made.seconds
    assert sum(a.accepted for a in made.answers) <= made.verified < made.offered


def test_what_fails_is_answered_with_its_error() -> None:
    texts = [[1, 2], [], [3], [99]]
    made = generate_batch(batch_of(2), Recorder(), [Asked(text) for text in texts])
    assert [answer.finished == "error" for answer in made.answers] == [False, True, False, True]
    assert made.answers[1].error == "the prompt is empty: expected at least 1 token"
    assert "token 99 is not in the vocabulary" in made.answers[3].error


def test_texts_that_come_later_are_waited_for() -> None:
    now = itertools.count()
    slept = []
    batch = batch_of(2)
    batch.clock = lambda: next(now) / 1000
    asked = [Asked([1, 2], arrives=0.0), Asked([3], arrives=50.0), Asked([4], arrives=0.0)]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        nonlocal now
        now = itertools.count(next(now) + int(seconds * 1000) + 1)

    made = generate_batch(batch, Recorder(), asked, sleep=sleep)
    assert len(slept) == 1 and made.answers[1].first > 50 > made.answers[2].ended


@pytest.mark.parametrize("groups", [GROUPS, ("context", "history"), ("cost",)])
def test_rows_observe_what_a_single_text_would(groups: tuple[str, ...]) -> None:
    """The same policy in every row decides as it does for each text alone."""
    spec = ObservationSpec(groups, max_length=4, vocab_size=61, drafters=2)
    actions = [Action(length, drafter) for length in range(5) for drafter in range(2)]
    chance = np.random.default_rng(1)
    weights = chance.normal(size=(len(spec), len(actions))).astype(np.float32)
    policy = LearnedPolicy(Actor((weights,), (np.zeros(len(actions), np.float32),)), actions, spec)
    texts = prompts(6, seed=8)
    target = lean(0)
    drafters = [DraftModel(lean(1), target.vocab_size), NgramLookup()]
    session = LiveSession(target, drafters, eos_ids=[59], max_new_tokens=20)
    wanted = [generate(session, policy, text, cost=COST) for text in texts]
    asked = [Asked(text) for text in texts]
    made = generate_batch(
        batch_of(3, signals=spec.needs_signals),
        Recorder(spec, policy),
        asked,
        features=lambda rows, context: COST,
    )
    for answer, expected in zip(made.answers, wanted):
        assert (answer.tokens, answer.rounds) == (expected.tokens, len(expected.rounds))


class Glancing(Recorder):
    """Plays the same actions, drafts in some rounds only, and looks now and then only."""

    def __init__(self, spec: ObservationSpec, every: int, drafts: int) -> None:
        super().__init__(spec)
        self._every, self._drafts, self._rounds = every, drafts, 0

    @property
    def looks(self) -> bool:  # type: ignore[override]
        return self._rounds % self._every == 0

    def decide(
        self, rows: Sequence[int], observations: np.ndarray | None, load: Load
    ) -> list[Action]:
        assert (observations is not None) == self.looks
        kept = None if observations is None else observations.copy()
        self.seen.setdefault(self._rounds, [])
        if kept is not None:
            self.seen[self._rounds].append(kept)
        self._rounds += 1
        actions = super().decide(rows, None, load)
        return actions if self._rounds % self._drafts == 0 else [FALLBACK] * len(rows)


@pytest.mark.parametrize("look, draft", [(5, 1), (13, 13), (11, 2)])
def test_what_is_seen_does_not_depend_on_how_often_one_looks(look: int, draft: int) -> None:
    spec = ObservationSpec(GROUPS, max_length=4, vocab_size=61, drafters=2)
    asked = [Asked(text) for text in prompts(7, seed=3)]
    seen = []
    for every in (1, look):
        controller = Glancing(spec, every, draft)
        generate_batch(
            batch_of(3, signals=True), controller, asked, features=lambda rows, context: COST
        )
        seen.append(controller.seen)
    often, seldom = seen
    assert len(often) == len(seldom) > 20
    for number in range(0, len(often), look):
        assert np.array_equal(often[number][0], seldom[number][0])
