"""What a lookup is expected to bring: as its own draft would be judged, before it is made."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adaspec_rl.decoding.drafters import NgramLookup
from adaspec_rl.decoding.forecast import DEPTH, NEGLIGIBLE, forecast, forecasts
from adaspec_rl.decoding.suffix_automaton import SuffixAutomaton
from adaspec_rl.decoding.survival import ProductSurvival
from adaspec_rl.decoding.token_sequence import TokenSequence
from adaspec_rl.decoding.verification import Greedy
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
