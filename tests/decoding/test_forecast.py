"""What a lookup is expected to bring: as its own draft would be judged, before it is made."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaspec_rl.decoding.compiled_automaton import CompiledAutomaton
from adaspec_rl.decoding.draft_signals import chain_signals
from adaspec_rl.decoding.drafters import NgramLookup, TableDrafter
from adaspec_rl.decoding.drafters.foreseen import Foreseen, tables_among
from adaspec_rl.decoding.forecast import DEPTH, NEGLIGIBLE, forecast, forecasts
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.stopping import chances
from adaspec_rl.decoding.suffix_automaton import SuffixAutomaton
from adaspec_rl.decoding.survival import ProductSurvival, same_survival
from adaspec_rl.decoding.token_sequence import TokenSequence
from adaspec_rl.decoding.verification import Greedy, new_verification
from adaspec_rl.engine.cpu.build import library
from tests.decoding.tables import random_table
from tests.recording.recordings import random_head


def test_a_sure_lookup_is_expected_to_bring_all_of_it():
    text = SuffixAutomaton([1, 2, 3] * 4)
    assert forecast(text, ProductSurvival()) == (DEPTH, 1.0)
    assert forecast(SuffixAutomaton([1, 2, 3]), ProductSurvival()) == (0.0, 0.0)


@given(text=st.lists(st.integers(0, 5), min_size=2, max_size=40), seed=st.integers(0, 20))
def test_it_is_the_sum_of_the_chances_of_what_would_be_drafted(text, seed):
    head = random_head(6, seed, log_probs=False)
    lookup, chance, expected = NgramLookup(), 1.0, []
    sequence = TokenSequence(text, torch.device("cpu"))
    draft = lookup.propose(sequence, DEPTH, Greedy()).tokens.tolist()
    suffix, previous = SuffixAutomaton(text).suffix(), text[-1]
    for token in draft:
        chance *= head.one(token, previous, 0.0, 0.0, suffix.match, True)
        expected.append(chance)
        suffix.append(token)
        previous = token
    row = np.zeros(DEPTH)
    row[: len(draft)] = expected
    tokens = np.array([draft + [-1] * (DEPTH - len(draft))])
    found = forecast(SuffixAutomaton(text), head)
    assert found == pytest.approx(forecasts(tokens, row[None])[0].tolist())
    assert found[1] == pytest.approx(expected[0] if expected else 0.0)
    worth = [c for c, before in zip(expected, [1.0, *expected]) if before >= NEGLIGIBLE]
    assert found[0] == pytest.approx(sum(worth))


@settings(deadline=None)
@given(
    text=st.lists(st.integers(0, 5), min_size=1, max_size=60),
    seed=st.integers(0, 50),
    log_probs=st.booleans(),
    temperature=st.sampled_from([0.0, 0.8]),
    least=st.sampled_from([0.0, 0.05, 0.3]),
)
def test_compiled_code_foresees_the_same(text, seed, log_probs, temperature, least):
    head, cpu = random_head(6, seed, log_probs), torch.device("cpu")
    rule = new_verification("coupled", Sampling(temperature), seed, 6, cpu)
    table = random_table(6, seed, (0.3, 0.6))
    library()
    own, sequence = TableDrafter(table, 6), TokenSequence(text, cpu)
    assert isinstance(sequence.automaton, CompiledAutomaton)
    assert forecast(sequence.automaton, head) == pytest.approx(
        forecast(SuffixAutomaton(text), head)
    )
    plain, written = TableDrafter(table, 6), TokenSequence(text, cpu)
    written._automaton = SuffixAutomaton(text)
    wanted = plain.chances(written, rule, head, length=DEPTH, least=least)
    found = own.chances(sequence, rule, head, length=DEPTH, least=least)
    assert found == pytest.approx(wanted, rel=1e-4)
    # A draft goes on from there.
    drafts = [one.propose(it, 12, rule) for one, it in ((own, sequence), (plain, written))]
    assert drafts[0].tokens.tolist() == drafts[1].tokens.tolist()
    again = pickle.loads(pickle.dumps(head))
    assert same_survival(again, head) and again.compiled is not head.compiled


@given(
    text=st.lists(st.integers(0, 5), min_size=1, max_size=40),
    seed=st.integers(0, 20),
    temperature=st.sampled_from([0.0, 0.8]),
)
def test_a_table_is_foreseen_as_its_draft_would_be_judged(text, seed, temperature):
    head, cpu = random_head(6, seed, log_probs=True), torch.device("cpu")
    sequence = TokenSequence(text, cpu)
    rule = new_verification("coupled", Sampling(temperature), seed, 6, cpu)
    drafters = [TableDrafter(random_table(6, seed, (0.3,)), 6), NgramLookup()]
    fresh = TableDrafter(drafters[0].table, 6)
    draft = fresh.propose(sequence, DEPTH, rule)
    drafted = draft.tokens.tolist()
    each = chances(head, chain_signals(draft), sequence.automaton, drafted, text[-1])
    row = np.cumprod(each)
    wanted = forecasts(draft.tokens.numpy()[None], row[None])[0].tolist()
    foreseen = Foreseen(drafters, [head, head])
    found = foreseen(sequence, rule)
    assert tables_among(drafters) == 1
    assert found[:2] == forecast(sequence.automaton, head)
    assert found[2:] == pytest.approx(wanted)
    assert foreseen(sequence, rule, tables=False) == found[:2]
    assert (
        pickle.loads(pickle.dumps(drafters[0])).propose(sequence, 2, rule).tokens.tolist()
        == drafted[:2]
    )
    # A draft goes on from what was foreseen, but not after the text has grown.
    for length in (1, DEPTH):
        assert drafters[0].propose(sequence, length, rule).tokens.tolist() == drafted[:length]
    sequence.buffer = torch.empty(len(text) + 1, dtype=torch.long)
    sequence.extend([drafted[0]])
    grown = [one.propose(sequence, 3, rule).tokens.tolist() for one in (drafters[0], fresh)]
    assert grown[0] == grown[1]


def test_a_table_that_draws_at_random_is_not_foreseen():
    cpu = torch.device("cpu")
    rule = new_verification("rejection", Sampling(1.0), 0, 6, cpu)
    drafter, sequence = TableDrafter(random_table(6, 0), 6), TokenSequence([1, 2, 3], cpu)
    assert Foreseen([drafter], [ProductSurvival()])(sequence, rule) == (0.0, 0.0, 0.0, 0.0)
