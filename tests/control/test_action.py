import pytest

from adaspec_rl.control.action import action_list
from adaspec_rl.decoding.round import FALLBACK, Action


def test_lengths_only():
    assert action_list("length", 3) == [FALLBACK, Action(1), Action(2), Action(3)]


def test_thresholds_and_drafters_multiply():
    actions = action_list("length_threshold", 2, drafters=2, thresholds=(0.5,))
    assert actions[:4] == [FALLBACK, Action(1), Action(2), Action(2, 0, 0.5)]
    assert actions[4:] == [Action(1, 1), Action(2, 1), Action(2, 1, 0.5)]


@pytest.mark.parametrize("arguments", [{"kind": "words"}, {"max_length": 0}, {"drafters": 0}])
def test_what_cannot_be_is_refused(arguments):
    with pytest.raises(ValueError, match="expected|at least"):
        action_list(**arguments)


@pytest.mark.parametrize("values", [{"length": -1}, {"length": 1, "threshold": 1.5}])
def test_actions_check_themselves(values):
    with pytest.raises(ValueError, match="must be"):
        Action(**values)
