"""Ranks of the text's own tokens among a drafter's choices."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adaspec_rl.decoding.drafters import NgramLookup, TableDrafter
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.token_sequence import TokenSequence
from adaspec_rl.recording.ranks import BEYOND, ranks_of, spread
from adaspec_rl.recording.texts import text_rules
from tests.decoding.tables import random_table
from tests.recording.recordings import toy_recording, toy_trace, toys


@given(st.lists(st.sampled_from([-torch.inf, 0.0, 1.0, 2.5]), min_size=1, max_size=12))
def test_ranks_are_places_in_a_stable_order(values):
    scores = torch.tensor(values)
    order = np.argsort(-scores.numpy(), kind="stable")
    found = ranks_of(scores.expand(len(values), -1), torch.arange(len(values)))
    for place, rank in enumerate(found.tolist()):
        expected = BEYOND if values[place] == -torch.inf else int(np.flatnonzero(order == place)[0])
        assert rank == expected


def test_ranks_that_no_byte_holds_are_beyond():
    scores = -torch.arange(300.0).expand(3, -1)
    assert ranks_of(scores, torch.tensor([254, 255, 299])).tolist() == [254, BEYOND, BEYOND]


def models():
    made = toys(noise=(0.3, 0.6), contexts=(9, 64))
    table = random_table(made.target.vocab_size, 3, (0.3, 0.5))
    made.drafters = [*made.drafters, NgramLookup(), TableDrafter(table, made.target.vocab_size)]
    return made


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.8), Sampling(1.2, top_k=3)])
def test_ranks_begin_with_as_many_first_choices_as_are_accepted(tmp_path, sampling):
    trace = toy_trace(tmp_path, models(), ranks=True, sampling=sampling, eos_ids=(2,))
    for table in trace.drafters:
        assert table.ranks is not None and table.ranks.dtype == np.uint8
        assert table.ranks.shape == table.tokens.shape
        firsts = (table.ranks == 0).cumprod(axis=1).sum(axis=1)
        assert np.array_equal(firsts, table.accepted)
    assert any((table.ranks == 1).any() for table in trace.drafters)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_ranks_are_those_of_the_choices_that_a_draft_is_made_from(tmp_path, temperature):
    made, recording = toys(), toy_recording(temperature)
    trace = toy_trace(tmp_path, made, ranks=True, temperature=temperature)
    for table, drafter in zip(trace.drafters, made.drafters):
        for text, start in zip(trace.texts, trace.starts):
            (rule,) = text_rules(
                made.target, [text.seed], recording.verification, recording.sampling
            )
            for g, token in enumerate(text.tokens.tolist()):
                so_far = [*text.prompt.tolist(), *text.tokens[:g].tolist()]
                drafter.start()
                draft = drafter.propose(TokenSequence(so_far, torch.device("cpu")), 1, rule)
                rank = int((draft.scores[0] > draft.scores[0, token]).sum())
                for d in range(min(g + 1, trace.max_length)):
                    assert table.ranks[start + g - d, d] == rank


def test_what_comes_after_the_text_and_beyond_the_context_is_no_choice(tmp_path):
    ranks = spread(np.array([3, 0, 7], dtype=np.uint8), 3)
    assert ranks.tolist() == [[3, 0, 7], [0, 7, BEYOND], [7, BEYOND, BEYOND]]
    made = toys(contexts=(4, 64))
    trace = toy_trace(tmp_path, made, ranks=True)
    for text, start in zip(trace.texts, trace.starts):
        full = max(0, 4 - len(text.prompt) + 1)  # tokens drafted from a context that is not full
        column = trace.drafters[0].ranks[start : start + len(text.tokens), 0]
        assert (column[:full] < BEYOND).all() and (column[full:] == BEYOND).all()


def test_a_recording_without_ranks_is_added_to(tmp_path):
    made = models()
    before = toy_trace(tmp_path, made)
    assert all(table.ranks is None for table in before.drafters)
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    after = toy_trace(tmp_path, made, ranks=True)
    assert after.fingerprint == before.fingerprint
    assert all(path.read_bytes() == content for path, content in kept.items())
    forwards = made.forwards
    again = toy_trace(tmp_path, made, ranks=True)
    assert made.forwards == forwards  # nothing was made anew
    for one, other in zip(after.drafters, again.drafters):
        assert np.array_equal(one.ranks, other.ranks)
    assert all(table.ranks is None for table in toy_trace(tmp_path, made).drafters)


def test_selected_texts_keep_their_ranks(tmp_path):
    trace = toy_trace(tmp_path, ranks=True)
    part = trace.select([3, 1])
    rows = np.concatenate([np.arange(*trace.starts[n : n + 2]) for n in (3, 1)])
    assert np.array_equal(part.drafters[1].ranks, trace.drafters[1].ranks[rows])
