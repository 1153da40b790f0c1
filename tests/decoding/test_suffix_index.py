from hypothesis import given, settings
from hypothesis import strategies as st

from adaspec_rl.decoding.suffix_index import SIZES, SuffixIndex


def longest_earlier_match(text: list[int], end: list[int]) -> tuple[int, int | None]:
    """The longest end of `text + end` that occurs in `text` with a token after it, and the last
    such token."""
    whole = text + end
    for size in sorted(SIZES, reverse=True):
        found = [
            text[stop]
            for stop in range(size, len(text))
            if size <= len(whole) and text[stop - size : stop] == whole[-size:]
        ]
        if found:
            return size, found[-1]
    return 0, None


tokens = st.integers(0, 2)


@settings(deadline=None, max_examples=120)
@given(
    prompt=st.lists(tokens, max_size=40),
    pieces=st.lists(st.lists(tokens, min_size=1, max_size=4), max_size=10),
    drafted=st.lists(tokens, max_size=5),
)
def test_it_finds_the_longest_earlier_match_and_what_followed(prompt, pieces, drafted):
    index = SuffixIndex()
    index.start(prompt)
    text = list(prompt)
    for piece in pieces:
        text += piece
        index.extend(piece)
    assert index.match == longest_earlier_match(text, [])[0]
    suffix = index.suffix()
    for count in range(len(drafted) + 1):
        expected = longest_earlier_match(text, drafted[:count])
        assert (suffix.match, suffix.guess) == expected
        if count < len(drafted):
            suffix.append(drafted[count])
