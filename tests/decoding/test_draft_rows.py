"""Drafts of all rows in one call are those that forward passes one by one make."""

import random
from collections.abc import Sequence

import numpy as np
import pytest

from adaspec_rl.decoding.batch import Batch, BatchRound
from adaspec_rl.decoding.drafters import Drafter, DraftModel, NgramLookup
from adaspec_rl.decoding.round import Action
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.text import DecodingRules
from adaspec_rl.engine.lean_model import LeanModel
from tests.decoding.test_batch import lean, prompts
from tests.recording.recordings import random_head
from tests.sharing import sharing_drafters

ROWS = 5
RULES = {
    "greedy": DecodingRules(frozenset(), 40, Sampling(), "rejection"),
    "coupled": DecodingRules(frozenset(), 40, Sampling(0.8), "coupled"),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[LeanModel, list[Drafter]]:
    """A drafter that reads hidden states, one that is trimmed, one of its own, and a lookup."""
    target, sharing = sharing_drafters(
        tmp_path_factory.mktemp("models"), ["trimmed", "trimmed hidden"]
    )
    own = DraftModel(lean(1, num_hidden_layers=1), target.vocab_size)
    return target, [*sharing, own, NgramLookup()]


def played(
    models: tuple[LeanModel, list[Drafter]], rules: DecodingRules, log_probs: bool, signals: bool
) -> tuple[list[BatchRound], list[list[list[float]]]]:
    """Rounds of random actions, and the survivals of each of them."""
    target, drafters = models
    heads = [random_head(target.vocab_size, seed, log_probs) for seed in range(len(drafters))]
    batch = Batch(target, drafters, ROWS, rules=rules, survival=heads, signals=signals)
    chance, rounds, told = random.Random(0), [], []
    for number, prompt in enumerate(prompts(ROWS)):
        batch.admit(prompt, seed=number)

    def allot(rows: Sequence[int], survivals: Sequence[Sequence[float]]) -> list[int]:
        told.append([list(own) for own in survivals])
        return [len(own) for own in survivals]

    while len(batch.taken) == ROWS:
        playing = [row for row in batch.taken if chance.random() < 0.8] or batch.taken
        actions = {}
        for row in playing:
            length = chance.choice([1, 3, 6])
            threshold = chance.choice([0.0, 0.1, 0.3, 0.6])
            actions[row] = Action(length, chance.randrange(len(drafters)), threshold)
        rounds.append(batch.step(actions, allot))
        for row in playing:
            if batch.text(row).finished:
                batch.leave(row)
    return rounds, told


@pytest.mark.parametrize("signals", [False, True])
@pytest.mark.parametrize("log_probs", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_rounds_are_the_same(
    models: tuple[LeanModel, list[Drafter]],
    rule: str,
    log_probs: bool,
    signals: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    draft_rows = LeanModel.draft_rows
    monkeypatch.setattr(
        LeanModel, "draft_rows", lambda *given: calls.append(1) or draft_rows(*given)
    )
    rounds, told = played(models, RULES[rule], log_probs, signals)
    assert len(calls) > len(rounds)  # there are three draft models
    monkeypatch.setattr(LeanModel, "drafts_at_once", lambda self, rows=False: False)
    expected, expected_told = played(models, RULES[rule], log_probs, signals)
    assert len(rounds) == len(expected) > 5
    for found, wanted in zip(rounds, expected):
        assert list(found.rounds) == list(wanted.rounds) and found.offered == wanted.offered
        for one, other in zip(found.rounds.values(), wanted.rounds.values()):
            assert (one.tokens, one.drafted, one.accepted) == (
                other.tokens,
                other.drafted,
                other.accepted,
            )
            for ours, theirs in zip(one.draft_margins, other.draft_margins):
                assert ours == pytest.approx(theirs, abs=1e-5)
    drafted = 0
    for found, wanted in zip(told, expected_told):
        assert [len(own) for own in found] == [len(own) for own in wanted]
        for ours, theirs in zip(found, wanted):
            assert ours == pytest.approx(theirs, abs=1e-5)
            drafted += len(ours)
    assert drafted > 50


@pytest.mark.parametrize("signals", [False, True])  # with them, logits are kept
def test_a_row_that_is_not_finite_leaves_the_others_alone(signals: bool) -> None:
    target = lean()
    bad = lean(1, bad=7, num_hidden_layers=1)  # after token 7
    heads = [random_head(target.vocab_size)]
    batch = Batch(
        target,
        [DraftModel(bad, target.vocab_size)],
        2,
        rules=RULES["greedy"],
        survival=heads,
        signals=signals,
    )
    good, spoilt = batch.admit([1, 2, 3]), batch.admit([4, 5, 7])
    found = batch.step({good: Action(3, 0, 0.01), spoilt: Action(3, 0, 0.01)})
    assert isinstance(found.errors[spoilt], FloatingPointError)
    assert "2" in str(found.errors[spoilt])  # the position of the last token
    assert list(found.rounds) == [good] and batch.taken == [good]


def test_a_long_prompt_is_read_before_the_draft() -> None:
    wide = {"max_position_embeddings": 2048}
    target, small = lean(**wide), lean(1, num_hidden_layers=1, **wide)
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 59, count).tolist() for count in (300, 1)]
    found = []
    for chunk in (small._chunk, 64):
        small._chunk = chunk
        batch = Batch(target, [DraftModel(small, target.vocab_size)], 2, rules=RULES["greedy"])
        made = batch.step({batch.admit(text): Action(4, 0) for text in texts})
        found.append([(one.drafted, one.accepted, one.rejected) for one in made.rounds.values()])
    assert found[0] == found[1] and found[0][0][0] == 4
