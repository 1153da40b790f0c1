"""Suffix automata find the longest earlier match, in Python and in compiled code alike."""

import copy
import pickle
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaspec_rl.decoding.compiled_automaton import CompiledAutomaton, suffix_automaton
from adaspec_rl.decoding.suffix_automaton import SuffixAutomaton
from adaspec_rl.engine.cpu.build import library


def compiled(text=()):
    return CompiledAutomaton(library(), text)


both = pytest.mark.parametrize("automaton_of", [SuffixAutomaton, compiled])


def longest_earlier_match(text: list[int], end: list[int]) -> tuple[int, set[int]]:
    """The longest end of `text + end` that occurs in `text` with a token after it, and all such
    tokens."""
    whole = text + end
    for size in range(min(len(whole), len(text) - 1), 0, -1):
        places = range(size, len(text))
        found = {text[stop] for stop in places if text[stop - size : stop] == whole[-size:]}
        if found:
            return size, found
    return 0, {None}


tokens = st.integers(0, 2)


@both
@settings(deadline=None, max_examples=200)
@given(
    prompt=st.lists(tokens, max_size=40),
    pieces=st.lists(st.lists(tokens, min_size=1, max_size=4), max_size=10),
    drafted=st.lists(tokens, max_size=9),
)
def test_it_finds_the_longest_earlier_match_and_what_followed(
    automaton_of, prompt, pieces, drafted
):
    automaton = automaton_of(prompt)
    text = list(prompt)
    for piece in pieces:
        text += piece
        automaton.extend(piece)
    assert automaton.tokens == text and len(automaton) == len(text)
    assert automaton.match == longest_earlier_match(text, [])[0]
    suffix = automaton.suffix()
    for count in range(len(drafted) + 1):
        size, followers = longest_earlier_match(text, drafted[:count])
        assert suffix.match == size and suffix.guess in followers
        if count < len(drafted):
            suffix.append(drafted[count])


@both
@settings(deadline=None, max_examples=100)
@given(text=st.lists(tokens, min_size=1, max_size=30))
def test_what_followed_the_last_time_is_the_guess(automaton_of, text):
    automaton = automaton_of(text)
    size = automaton.match
    stops = [stop for stop in range(size, len(text)) if text[stop - size : stop] == text[-size:]]
    assert automaton.suffix().guess == (text[stops[-1]] if size else None)


@both
def test_a_period_is_continued_for_ever(automaton_of):
    suffix = automaton_of([9, 1, 2, 3, 1, 2, 3, 1]).suffix()
    drafted = []
    for _ in range(10):
        drafted.append(suffix.guess)
        suffix.append(suffix.guess)
    assert drafted == [2, 3, 1, 2, 3, 1, 2, 3, 1, 2]


def test_it_stays_small():
    automaton = SuffixAutomaton([0, 1] * 500 + list(range(500)))
    assert len(automaton._link) <= 2 * len(automaton)


@settings(deadline=None, max_examples=200)
@given(
    pieces=st.lists(st.lists(st.integers(0, 3), max_size=30), max_size=8),
    drafted=st.lists(st.integers(0, 3), max_size=9),
)
def test_compiled_code_does_the_same(pieces, drafted):
    automata = SuffixAutomaton(), compiled()
    rates, decays = (array("d", [0.0, 0.5]) for _ in automata), array("d", [0.7, 0.9])
    followed = list(zip(automata, rates))
    for piece in pieces:
        matches = [automaton.follow(piece, own, decays) for automaton, own in followed]
        assert matches[0] == matches[1] == automata[1].match
        assert followed[0][1] == followed[1][1]  # to the bit
        wanted, found = (automaton.suffix() for automaton in automata)
        kept, first = copy.copy(found), (found.match, found.guess)
        for token in drafted:
            assert (found.match, found.guess) == (wanted.match, wanted.guess)
            found.append(token)
            wanted.append(token)
        assert (found.match, found.guess) == (wanted.match, wanted.guess)
        assert (kept.match, kept.guess) == first
    again = pickle.loads(pickle.dumps(automata[1]))
    assert again.tokens == automata[0].tokens and again.match == automata[0].match


def test_models_that_run_compiled_bring_compiled_automata():
    library()
    assert isinstance(suffix_automaton([1, 2]), CompiledAutomaton)


def test_large_texts_of_many_tokens():
    text = [n * n % 997 for n in range(5000)]
    python, own = SuffixAutomaton(text), compiled(text)
    assert python.match == own.match > 900 and python.suffix().guess == own.suffix().guess
