"""Programs pass their tests or fail them, whatever they try."""

import json

import pytest

from adaspec_rl.comparison.code_tests import code_problems, passes, program_in

TESTS = ("assert twice(2) == 4", "assert twice(-1) == -2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "passed"),
    [
        ("def twice(x): return 2 * x", True),
        ("def twice(x): return 4", False),
        ("def twice(x) return", False),
        ("def twice(x):\n    while True: pass", False),
        ("def twice(x): return len(bytearray(2**30)) and 2 * x", False),
        ("import sys; sys.exit(0)", False),
        ("with open('a', 'w') as f: f.write('b')\ndef twice(x): return 2 * x", False),
        ("import os\nassert not os.environ.get('HOME')\ndef twice(x): return 2 * x", True),
    ],
)
def test_programs_are_judged_by_their_tests(program, passed):
    assert passes(program, TESTS, seconds=2.0) is passed


def test_programs_are_found_in_answers():
    assert program_in("Sure:\n```python\nx = 1\n```\nThere.") == "x = 1\n"
    assert program_in("```\nx = 1") == "x = 1"
    assert program_in("Here.\ndef f():\n    pass\n") == "def f():\n    pass\n"
    assert program_in("I do not know.") is None


def test_programs_run_only_where_they_are_allowed_to(tmp_path):
    path = tmp_path / "mbpp.jsonl"
    path.write_text(json.dumps({"text": "Double it.", "test_list": list(TESTS)}) + "\n")
    with pytest.raises(ValueError, match="run programs that a model wrote: allow it"):
        code_problems(path)
    (problem,) = code_problems(path, allowed=True)
    assert TESTS[0] in problem.text and problem.answer_in("I do not know.") is None
    path.write_text(json.dumps({"text": "Double it.", "test_list": []}) + "\n")
    with pytest.raises(ValueError, match="line 1: expected a text, and a test_list of assertions"):
        code_problems(path, allowed=True)
