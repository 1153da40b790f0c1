"""Options of the commands that read theirs with argparse."""

import pytest

from adaspec_rl.limits import ListOf, Number, OrNull, Whole, Words, require, shown
from adaspec_rl.tools import acceptance, pretrain


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (acceptance, ["--prompts", "0"], "--prompts: must be an integer from 1 to"),
        (acceptance, ["--length", "-1"], "--length: must be an integer from 1 to 64, got '-1'"),
        (acceptance, ["--temperatures", "0", "nan"], "must be a number from 0 to 100, got 'nan'"),
        (acceptance, ["--max-new-tokens", "many"], "must be an integer from 1 to 1,000,000"),
        (pretrain, ["--rows", "0"], "--rows: must be an integer from 1 to 10,000, got '0'"),
        (pretrain, ["--learning-rate", "inf"], "must be a number above 0 and at most 1, got 'inf'"),
        (pretrain, ["--seed", "1e23"], "must be an integer from 0 to 2,147,483,647, got '1e23'"),
    ],
)
def test_an_option_beyond_its_limit_is_refused_by_name(capsys, command, arguments, message):
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "limit", "sentence"),
    [
        (
            float("nan"),
            Number(0, 1, above=True),
            "x must be a number above 0 and at most 1, got nan",
        ),
        (True, Whole(0, 5), "x must be an integer from 0 to 5, got true"),
        (None, Words("a", "b"), "x must be one of a, b, got null"),
        ("c", OrNull(Words("a", "b")), "x must be one of a, b, or null, got 'c'"),
        ([1, 1], ListOf(Whole(1, 2)), "x must be a list of 0 to 64 different items, each an int"),
    ],
)
def test_a_refusal_says_what_is_wanted_and_what_there_is(value, limit, sentence):
    with pytest.raises(ValueError) as refused:
        require("x", value, limit)
    assert str(refused.value).startswith(sentence)


def test_long_values_are_cut():
    assert len(shown("x" * 10_000)) < 120
