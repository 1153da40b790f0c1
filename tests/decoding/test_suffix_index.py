from hypothesis import given, settings
from hypothesis import strategies as st

from adaspec_rl.decoding.suffix_index import SuffixIndex


def longest_earlier_match(text: list[int], end: list[int], limit: int) -> tuple[int, int | None]:
    """The longest end of `text + end` that occurs in `text` with a token after it, and the last
    such token."""
    whole = text + end
    for size in range(min(limit, len(whole)), 0, -1):
        found = [
            text[stop]
            for stop in range(size, len(text))
            if text[stop - size : stop] == whole[-size:]
        ]
        if found:
            return size, found[-1]
    return 0, None


tokens = st.integers(0, 2)


@settings(deadline=None, max_examples=80)
@given(
    prompt=st.lists(tokens, max_size=20),
    pieces=st.lists(st.lists(tokens, min_size=1, max_size=4), max_size=10),
    drafted=st.lists(tokens, max_size=5),
    limit=st.integers(1, 6),
)
def test_it_finds_the_longest_earlier_match_and_what_followed(prompt, pieces, drafted, limit):
    index = SuffixIndex(limit)
    index.start(prompt)
    text = list(prompt)
    for piece in pieces:
        text += piece
        index.extend(piece)
    assert index.match == longest_earlier_match(text, [], limit)[0]
    assert index.predict(drafted) == longest_earlier_match(text, drafted, limit)
