import math

from hypothesis import given
from hypothesis import strategies as st

from adaspec_rl.control.text_features import LOOKUP_SPANS, TextFeatures
from adaspec_rl.decoding.suffix_automaton import SuffixAutomaton
from adaspec_rl.decoding.survival import MATCH_LIMIT


@given(prompt=st.lists(st.integers(0, 3), max_size=30), cuts=st.lists(st.integers(1, 5)))
def test_values_are_the_match_and_running_averages_of_right_guesses(prompt, cuts):
    found = TextFeatures()
    found.start([7, 7, 7])
    found.extend([1, 2])
    found.start(prompt[:3])
    rest = prompt[3:]
    for cut in [*cuts, len(rest)]:
        found.extend(rest[:cut])
        rest = rest[cut:]
    generated = max(0, len(prompt) - 3)
    text, rates = SuffixAutomaton(), [0.0, 0.0]
    for token in prompt:
        hit = text.suffix().guess == token
        rates = [hit + (r - hit) * math.exp(-1 / span) for r, span in zip(rates, LOOKUP_SPANS)]
        text.append(token)
    match = math.log2(1 + min(text.match, MATCH_LIMIT))
    assert found.values == (math.log1p(generated), match, *rates)


def test_repetition_shows():
    found = TextFeatures()
    found.start([1, 2, 3, 4, 5] * 20)
    generated, match, *rates = found.values
    assert generated == 0 and match == math.log2(1 + MATCH_LIMIT) and min(rates) > 0.9
    found.start(range(100))
    assert found.values == (0, 0, 0, 0)
