"""Many texts side by side: each is what it would be alone."""

import itertools
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adaspec_rl.decoding import batch as batch_module
from adaspec_rl.decoding.batch import Batch
from adaspec_rl.decoding.drafters import Drafter, DraftModel, EarlyExit, NgramLookup
from adaspec_rl.decoding.round import FALLBACK, Action, Round
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.session import LiveSession
from adaspec_rl.decoding.text import DecodingRules
from adaspec_rl.engine.extension import Extended, Extension
from adaspec_rl.engine.lean_model import LeanModel
from tests.engine.checkpoints import new_model, spoil
from tests.sharing import SHAPE, sharing_drafters
from tests.toy import ToyModel

SMALL: dict[str, Any] = {**SHAPE, "model_type": "llama", "vocab_size": 61}
RULES = {"greedy": Sampling(), "coupled": Sampling(0.8, top_p=0.95)}
Models = tuple[LeanModel, list[Drafter]]


def lean(seed: int = 0, bad: int | None = None, **changes: Any) -> LeanModel:
    theirs = new_model(seed=seed, **{**SMALL, **changes})
    if bad is not None:
        spoil(theirs, bad)
    return LeanModel.from_tensors(
        theirs.config.to_dict(), theirs.state_dict().items(), f"small{seed}"
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """A drafter that reads hidden states, one that is trimmed, one of its own, and a lookup."""
    target, sharing = sharing_drafters(
        tmp_path_factory.mktemp("models"), ["trimmed", "trimmed hidden"]
    )
    own = DraftModel(lean(1, num_hidden_layers=1), target.vocab_size)
    return target, [*sharing, own, NgramLookup()]


def prompts(count: int, seed: int = 0, longest: int = 40) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [
        generator.integers(0, 59, generator.integers(1, longest)).tolist() for _ in range(count)
    ]


def alone(models: Models, prompt: Sequence[int], seed: int, rules: DecodingRules) -> list[int]:
    session = LiveSession(
        models[0],
        [],
        eos_ids=sorted(rules.eos_ids),
        max_new_tokens=rules.max_new_tokens,
        sampling=rules.sampling,
        verification=rules.verification,
    )
    session.start(prompt, seed)
    while session.finished is None:
        session.step(FALLBACK)
    return session.tokens


def random_action(chance: random.Random, drafters: int) -> Action:
    length = chance.choice([0, 1, 2, 3, 5, 8])
    threshold = chance.choice([0.0, 0.0, 0.05, 0.3])
    return Action(length, chance.randrange(drafters), threshold if length else 0.0)


def some(chance: random.Random) -> batch_module.Allot:
    """Verify as much of each draft as chance has it."""
    return lambda rows, survivals: [chance.randint(0, len(own)) for own in survivals]


def decode(
    batch: Batch, texts: Sequence[Sequence[int]], chance: random.Random, *, allots: bool
) -> list[list[int]]:
    """All texts under random actions; rows join and leave at random."""
    waiting, row_of, made = list(range(len(texts))), {}, {}
    while waiting or row_of:
        while waiting and batch.free and (not row_of or chance.random() < 0.6):
            number = waiting.pop(0)
            row_of[batch.admit(texts[number], seed=number)] = number
        playing = [row for row in row_of if chance.random() < 0.9]
        actions = {row: random_action(chance, len(batch.drafters)) for row in playing}
        found = batch.step(actions, some(chance) if allots else None)
        assert set(found.rounds) == set(playing) and not found.errors
        assert found.verified == sum(round_.drafted for round_ in found.rounds.values())
        assert found.verified <= found.offered
        for row in playing:
            if batch.text(row).finished is not None:
                made[row_of.pop(row)] = batch.text(row).tokens
                batch.leave(row)
    return [made[number] for number in range(len(texts))]


@pytest.mark.parametrize("rows", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("rule", RULES)
def test_texts_are_those_decoded_alone(models: Models, rule: str, rows: int) -> None:
    check_texts(models, rule, rows, 40)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [2, 4, 8, 16])
@pytest.mark.parametrize("rule", RULES)
def test_two_hundred_texts_are_those_decoded_alone(models: Models, rule: str, rows: int) -> None:
    check_texts(models, rule, rows, 200)


def check_texts(models: Models, rule: str, rows: int, count: int) -> None:
    verification = "coupled" if rule == "coupled" else "rejection"
    rules = DecodingRules(frozenset([59]), 24, RULES[rule], verification)
    texts = prompts(count, seed=rows)
    wanted = [alone(models, text, number, rules) for number, text in enumerate(texts)]
    batch = Batch(*models, rows, rules=rules, signals=rows == 4)
    chance = random.Random(rows)
    assert decode(batch, texts, chance, allots=rows != 2) == wanted
    assert batch.taken == []


def test_rounds_are_those_of_a_session(models: Models) -> None:
    """Signals, survivals and forecasts too."""
    rules = DecodingRules(frozenset([59]), 30)
    target, drafters = models
    session = LiveSession(target, drafters, eos_ids=[59], max_new_tokens=30)
    chance = random.Random(3)
    text = prompts(1, seed=5)[0] * 2
    session.start(text)
    actions, wanted, ahead = [], [], []
    while session.finished is None:
        actions.append(random_action(chance, len(drafters)))
        ahead.append(session.forecast())
        wanted.append(session.step(actions[-1]))
    batch = Batch(*models, 3, rules=rules, signals=True)
    batch.admit(prompts(1, seed=6)[0])
    row = batch.admit(text)
    for action, expected, foreseen in zip(actions, wanted, ahead):
        assert batch.forecast(row) == foreseen
        found = batch.step({row: action}).rounds[row]
        assert (found.tokens, found.rejected) == (expected.tokens, expected.rejected)
        assert (found.drafted, found.accepted) == (expected.drafted, expected.accepted)
        for name in Round.__dataclass_fields__:
            if name.startswith(("draft_", "target_")):
                assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=1e-4)
    assert batch.text(row).finished == session.finished


def test_the_reading_of_prompts_is_no_part_of_a_rounds_seconds() -> None:
    batch = Batch(lean(0), [], 2)
    now = iter(range(100))
    batch.clock = lambda: next(now)
    row = batch.admit([1, 2, 3])
    found = batch.step({row: FALLBACK})
    assert (found.reading, found.seconds, found.rounds[row].seconds) == (1, 1, 1)


VOCAB, DEPTH = 6, 3


def tiny_models() -> tuple[LeanModel, LeanModel]:
    shape = {"vocab_size": VOCAB, "num_hidden_layers": 1, "hidden_size": 16}
    return lean(3, **shape), lean(4, **shape)


def exact(target: LeanModel, prompt: Sequence[int], temperature: float) -> np.ndarray:
    """The chance of each continuation of `DEPTH` tokens, in the order of `product`."""
    chances = []
    for text in itertools.product(range(VOCAB), repeat=DEPTH):
        target.reset()
        logits = target.extend(torch.tensor([[*prompt, *text]]))[0, len(prompt) - 1 : -1]
        found = (logits / temperature).softmax(-1).double()
        chances.append(float(found[range(DEPTH), list(text)].prod()))
    return np.array(chances)


def deviation(allot: batch_module.Allot | None, samples: int = 20_000) -> float:
    """How far batches are from sampling the target's distribution, as a standard normal's value.

    By the chi-squared test in Wilson and Hilferty's approximation (doi:10.1073/pnas.17.12.684).
    """
    target, drafter = tiny_models()
    texts = [[1, 2], [4], [3, 3, 0]]
    rules = DecodingRules(frozenset(), DEPTH, Sampling(1.3))
    expected = [exact(target, text, 1.3) for text in texts]
    batch = Batch(target, [DraftModel(drafter, VOCAB), NgramLookup()], 8, rules=rules)
    chance = random.Random(0)
    counts = [Counter[tuple[int, ...]]() for _ in texts]
    row_of: dict[int, int] = {}
    started = done = 0
    while done < samples:
        while batch.free:
            row_of[batch.admit(texts[started % 3], seed=started)] = started % 3
            started += 1
        drafts = {
            row: Action(chance.choice([0, 1, 2, 2]), chance.choice([0, 0, 1])) for row in row_of
        }
        batch.step(drafts, allot)
        for row in list(row_of):
            if batch.text(row).finished is not None:
                counts[row_of.pop(row)][tuple(batch.text(row).tokens)] += 1
                batch.leave(row)
                done += 1
    observed, wanted = [], []
    for count, chances in zip(counts, expected):
        total = sum(count.values())
        likely = chances * total >= 5
        seen = np.array([count[text] for text in itertools.product(range(VOCAB), repeat=DEPTH)])
        observed += [*seen[likely], seen[~likely].sum()]
        wanted += [*(chances * total)[likely], (chances * total)[~likely].sum()]
    counted, hoped = np.array(observed), np.array(wanted)
    square = float((((counted - hoped) ** 2) / hoped).sum())
    spread = 2 / (9 * (len(counted) - len(texts)))
    return ((square / (len(counted) - len(texts))) ** (1 / 3) - 1 + spread) / spread**0.5


def likely_only(rows: Sequence[int], survivals: Sequence[Sequence[float]]) -> list[int]:
    """Verify a token where its estimate is above one in five."""
    return [sum(chance > 0.2 for chance in own) for own in survivals]


@pytest.mark.parametrize("allot", [None, likely_only])
def test_rejection_samples_the_targets_distribution(allot: batch_module.Allot | None) -> None:
    assert deviation(allot) < 3.1


def test_a_wrong_row_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    extend_rows = LeanModel.extend_rows

    def turned(self: LeanModel, parts: Sequence[Extension]) -> list[Extended]:
        found = extend_rows(self, parts)
        for width in {part.keep for part in parts}:  # each gets its neighbour's
            alike = [number for number, part in enumerate(parts) if part.keep == width]
            for own, other in zip(alike, [found[number] for number in alike[1:] + alike[:1]]):
                found[own] = other
        return found

    monkeypatch.setattr(LeanModel, "extend_rows", turned)
    assert deviation(None, 5000) > 5


def test_allotment_by_what_was_drawn_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Throwing unlikely draws away changes the distribution: hence `known_before`."""
    monkeypatch.setattr(batch_module, "known_before", lambda row: np.array(row.survivals))
    assert deviation(likely_only, 8000) > 5


@pytest.mark.parametrize("who", ["target", "drafter"])
def test_a_row_that_fails_leaves_the_others_alone(who: str) -> None:
    bad = 5
    target = lean(0, bad if who == "target" else None)
    drafter = lean(1, bad if who == "drafter" else None)
    length = 0 if who == "target" else 2  # else a draft may hold the token that spoils it
    rules = DecodingRules(frozenset(), 12)
    texts = [[token for token in text if token != bad] or [1] for text in prompts(4, seed=2)]
    wanted = [alone((lean(0), []), text, 0, rules) for text in texts]
    assert all(bad not in text for text in wanted)
    batch = Batch(target, [DraftModel(drafter, target.vocab_size)], 3, rules=rules)
    rows = [batch.admit(text) for text in texts[:2]]
    spoiled = batch.admit([1, bad, 2])
    found = batch.step({row: Action(length) for row in (*rows, spoiled)})
    assert list(found.errors) == [spoiled] and set(found.rounds) == set(rows)
    assert "NaN or infinite logits" in str(found.errors[spoiled])
    assert batch.free == [spoiled]
    with pytest.raises(ValueError, match="the prompt is empty"):
        batch.admit([])
    rows += [batch.admit(text) for text in texts[2:3]]  # into the very row
    finish(batch, rows, length)
    assert [batch.text(row).tokens for row in rows] == wanted[:3]


def finish(batch: Batch, rows: Sequence[int], length: int = 2) -> None:
    while going := [row for row in rows if batch.text(row).finished is None]:
        assert not batch.step({row: Action(length) for row in going}).errors


def test_freed_rows_are_used_again() -> None:
    """Memory is that of the longest texts side by side, however many there are."""
    target, drafter = lean(0), lean(1)
    batch = Batch(target, [DraftModel(drafter, 61)], 4, rules=DecodingRules(frozenset(), 3))
    sizes = []
    for number in range(200):
        rows = [batch.admit(text) for text in prompts(4, seed=number)]
        finish(batch, rows)
        for row in rows:
            batch.leave(row)
        sizes.append([model._cache.data.numel() for model in (target, drafter)])
    assert sizes[-1] == sizes[0]


@pytest.mark.slow
def test_ten_thousand_texts_leave_the_process_as_large_as_it_was() -> None:
    target, drafter = lean(0), lean(1)
    batch = Batch(target, [DraftModel(drafter, 61)], 8, rules=DecodingRules(frozenset(), 3))
    texts = prompts(1000)
    sizes = []
    for number in range(10_000 // 8):
        rows = [batch.admit(texts[(8 * number + n) % 1000]) for n in range(8)]
        finish(batch, rows)
        for row in rows:
            batch.leave(row)
        if number in (12, 10_000 // 8 - 1):  # after a hundred texts, and in the end
            sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)
    assert sizes[1] - sizes[0] < 4 << 20


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda batch: batch.step({1: FALLBACK}), r"row 1 has no text: expected one of \[0\]"),
        (lambda batch: batch.step({0: Action(1, 4)}), "no drafter number 4: expected 0 to 0"),
        (lambda batch: [batch.admit([1]) for _ in range(2)], "all 2 rows are taken"),
        (lambda batch: batch.admit([61]), "token 61 is not in the vocabulary"),
        (lambda batch: batch.leave(1), "row 1 has no text"),
    ],
)
def test_bad_calls_are_refused(call: Callable[[Batch], object], message: str) -> None:
    batch = Batch(lean(0), [NgramLookup()], 2)
    batch.admit([1, 2])
    with pytest.raises(ValueError, match=message):
        call(batch)


def test_what_cannot_be_batched_is_refused() -> None:
    target = lean(0)
    with pytest.raises(ValueError, match="toy0 runs through transformers, .* one text at a time"):
        Batch(ToyModel(), [], 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="early_exit:1 drafts for one text at a time"):
        Batch(target, [EarlyExit(target, 1)], 2)
    with pytest.raises(ValueError, match="at least 1 row, got 0"):
        Batch(target, [], 0)


def test_a_model_that_somebody_else_uses_is_noticed() -> None:
    batch = Batch(lean(0), [], 2)
    row = batch.admit([1, 2])
    batch.target.reset()
    with pytest.raises(RuntimeError, match="used for something else"):
        batch.step({row: FALLBACK})
