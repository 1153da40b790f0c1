"""The scripts in `examples` run as they are, and are short."""

import re
import subprocess
import sys
from importlib.util import find_spec

import pytest

from adaspec_rl.pairs.smollm2 import PACKAGE
from tests import PROJECT

EXAMPLES = sorted((PROJECT / "examples").glob("*.py"))


def printed(name: str, *arguments: str) -> str:
    script = PROJECT / "examples" / name
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_says_how_to_run_it(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) < 40
    assert f"python examples/{path.name}" in source.splitlines()[0]


def test_an_own_controller_decodes():
    said = printed("own_controller.py")
    assert "[" in said and re.search(r"23 tokens in \d+ rounds", said)


def test_transformers_generates_the_same_text():
    said = printed("transformers_generate.py")
    assert re.search(r"generate: .*s\nwith adaspec_rl: .*s\nthe same text\n", said)


@pytest.mark.slow
@pytest.mark.skipif(find_spec(PACKAGE.replace("-", "_")) is None, reason=f"needs {PACKAGE}")
def test_the_readme_shows_what_the_real_model_writes():
    said, _, counted = printed("own_controller.py", "smollm2").rpartition("\n\n")
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- decoded example: .*-->\n```text\n(.*?)```", readme, re.DOTALL)
    assert shown is not None
    tokens, rounds = re.findall(r"\d+", counted)[:2]
    assert f"{tokens} tokens in {rounds} passes" in readme
    assert [line.rstrip() for line in shown[1].splitlines()] == [
        line.rstrip() for line in said.rstrip().splitlines()
    ]
