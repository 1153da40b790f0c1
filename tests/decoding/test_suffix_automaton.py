from hypothesis import given, settings
from hypothesis import strategies as st

from adaspec_rl.decoding.suffix_automaton import SuffixAutomaton


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


@settings(deadline=None, max_examples=200)
@given(
    prompt=st.lists(tokens, max_size=40),
    pieces=st.lists(st.lists(tokens, min_size=1, max_size=4), max_size=10),
    drafted=st.lists(tokens, max_size=9),
)
def test_it_finds_the_longest_earlier_match_and_what_followed(prompt, pieces, drafted):
    automaton = SuffixAutomaton()
    automaton.start(prompt)
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


@settings(deadline=None, max_examples=100)
@given(text=st.lists(tokens, min_size=1, max_size=30))
def test_what_followed_the_last_time_is_the_guess(text):
    automaton = SuffixAutomaton(text)
    size = automaton.match
    stops = [stop for stop in range(size, len(text)) if text[stop - size : stop] == text[-size:]]
    assert automaton.suffix().guess == (text[stops[-1]] if size else None)


def test_a_period_is_continued_for_ever():
    suffix = SuffixAutomaton([9, 1, 2, 3, 1, 2, 3, 1]).suffix()
    drafted = []
    for _ in range(10):
        drafted.append(suffix.guess)
        suffix.append(suffix.guess)
    assert drafted == [2, 3, 1, 2, 3, 1, 2, 3, 1, 2]


def test_it_stays_small():
    automaton = SuffixAutomaton([0, 1] * 500 + list(range(500)))
    assert len(automaton._link) <= 2 * len(automaton)
