from hypothesis import given, settings
from hypothesis import strategies as st

from adaspec_rl.control.suffix_match import SuffixMatch


def longest_earlier_match(text: list[int], limit: int) -> int:
    for size in range(min(limit, len(text) - 1), 0, -1):
        suffix = text[-size:]
        if any(text[end - size : end] == suffix for end in range(size, len(text))):
            return size
    return 0


@settings(deadline=None, max_examples=80)
@given(
    prompt=st.lists(st.integers(0, 2), max_size=20),
    pieces=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), max_size=10),
    limit=st.integers(1, 6),
)
def test_it_finds_the_longest_earlier_match(prompt, pieces, limit):
    match = SuffixMatch(limit)
    assert match.start(prompt) == longest_earlier_match(prompt, limit)
    text = list(prompt)
    for piece in pieces:
        text += piece
        assert match.extend(piece) == longest_earlier_match(text, limit)
