"""The scripts in `examples` run as they are, and are short."""

import re
import subprocess
import sys

import pytest

from tests import PROJECT

EXAMPLES = sorted((PROJECT / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_says_how_to_run_it(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) < 40
    assert f"python examples/{path.name}" in source.splitlines()[0]


@pytest.mark.slow
def test_an_own_controller_writes_the_text_of_the_readme():
    script = PROJECT / "examples" / "own_controller.py"
    printed = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=True
    ).stdout
    assert "[" in printed and re.search(r"\d+ tokens in \d+ rounds", printed)
