"""Names in tables are short, and never those of two drafters."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaspec_rl.comparison.contestants import best_of_each_drafter
from adaspec_rl.comparison.workbench import Workbench
from adaspec_rl.pairs.drafter_names import short_names
from tests.recording.recordings import profile, toy_trace, toys


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["tiny:draft", "ngram", "early_exit:3"], ["draft", "ngram", "early_exit"]),
        (["early_exit:2", "early_exit:4"], ["early_exit:2", "early_exit:4"]),
        (["runs/a/draft", "runs/b/draft/", "tiny:code"], ["a/draft", "b/draft", "code"]),
        (["tiny:draft", "draft"], ["tiny:draft", "draft"]),
        (["Qwen/Qwen3-0.6B"], ["Qwen3-0.6B"]),
        (["ngram", "tiny:table"], ["ngram", "table"]),
        (["tiny:table", "table:runs/a.st"], ["tiny:table", "table:runs/a.st"]),
    ],
)
def test_names_are_as_short_as_they_can_be(names, short):
    assert short_names(names) == short


@given(
    st.lists(
        st.from_regex(r"[ab]{1,2}(/[ab]){0,2}|early_exit:[12]|tiny:[ab]", fullmatch=True),
        unique=True,
    )
)
def test_names_that_differ_stay_apart(names):
    assert len(set(short_names(names))) == len(names)


def test_the_best_lengths_of_two_early_exits_are_told_apart(tmp_path):
    trace = toy_trace(tmp_path, toys(noise=(0.5, 0.2, 0.3), contexts=(64, 64, 64)))
    bench = Workbench(trace, trace, profile(drafters=3, max_length=4), max_length=4)
    exits = ["ngram", "early_exit:2", "early_exit:4"]
    pair = SimpleNamespace(drafters=[SimpleNamespace(name=name) for name in exits])
    found = [one.identity.name for one in best_of_each_drafter(pair, bench, [1, 2])]
    wanted = ["fixed_1", "fixed_2"]
    wanted += [f"fixed_{length}_early_exit:{depth}" for depth in (2, 4) for length in (1, 2)]
    assert found == wanted
