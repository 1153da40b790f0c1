"""What lossy texts lose, on texts of which everything is known."""

import math

import pytest
import torch

from adaspec_rl.comparison.accuracy import Written, log_likelihood, pareto_front, price
from tests.toy import ToyModel

TARGET = ToyModel(8, seed=3)


def test_log_likelihood_is_the_targets_own():
    prompt, tokens = [1, 2], [3, 4, 5, 6]
    expected = 0.0
    for n, token in enumerate(tokens):
        expected += float(TARGET.logits(prompt + tokens[:n]).log_softmax(-1)[token])
    assert log_likelihood(TARGET, prompt, tokens) == pytest.approx(expected, abs=1e-5)
    assert log_likelihood(TARGET, prompt, []) == 0
    with pytest.raises(ValueError, match="the prompt is empty"):
        log_likelihood(TARGET, [], tokens)


def test_greedy_texts_are_the_likeliest_step_by_step():
    text = [1, 2]
    for _ in range(6):
        scores = TARGET.logits(text).log_softmax(-1)
        found = [log_likelihood(TARGET, text, [token]) for token in range(8)]
        assert torch.tensor(found).argmax() == scores.argmax()
        text.append(int(scores.argmax()))


PLAIN = {
    "a": Written((1, 2), ("2",), True, 0.0, -2.0),
    "b": Written((3, 4), ("4",), True, 0.0, -4.0),
    "c": Written((5, 6), ("6",), False, 0.0, -2.0),
    "d": Written((7, 0), ("0",), True, 0.0, -2.0),
}


def test_prices_of_known_texts():
    own = {
        **PLAIN,
        "b": Written((3, 5), ("5",), False, 1.0, -6.0),
        "d": Written((7, 1), ("1",), True, 1.0, -3.0),
    }
    found = price(own, PLAIN)
    assert found.accuracy == 0.5 and found.accuracy_change == -0.25
    low, high = found.accuracy_change_ci95
    assert low < -0.25 < high <= 0
    assert found.identical == found.same_answer == 0.5
    assert found.distance == 2 / 8
    assert found.log_likelihood == -13 / 8
    assert found.log_likelihood_change == pytest.approx((-1.0 - 0.5) / 4)


def test_plain_decoding_costs_nothing():
    found = price(PLAIN, PLAIN)
    assert found.accuracy == 0.75 and found.identical == 1 and found.distance == 0
    assert found.accuracy_change_ci95 == (0, 0) and found.log_likelihood_change == 0


def test_other_problems_are_refused():
    with pytest.raises(ValueError, match="expected the same problems, 1 or more, got 3 and 4"):
        price({name: PLAIN[name] for name in "abc"}, PLAIN)


def test_the_front_has_what_nothing_beats():
    points = {"slow": (1.0, 0.9), "fast": (2.0, 0.5), "worse": (1.5, 0.4), "same": (2.0, 0.4)}
    assert pareto_front(points) == ["slow", "fast"]
    assert pareto_front({"one": (1.0, math.inf)}) == ["one"]
    assert set(pareto_front({"a": (1, 1), "b": (1, 1)})) == {"a", "b"}
