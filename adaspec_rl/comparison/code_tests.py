"""Programs judged by their tests (MBPP, arXiv:2108.07732), in a process of their own.

The process has little memory and time, no environment variables and an empty temporary folder. It
may neither write files nor start further processes. These limits stop accidents, not attacks:
running programs is off by default, and unsuitable for texts that somebody else controls.
"""

import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adaspec_rl.data.json_lines import read_objects

SECONDS, MEBIBYTES = 5.0, 512
# The process sets these limits itself before it runs the program.
_LIMITS = """\
import resource
for _name, _limit in [
    (resource.RLIMIT_CPU, {seconds}), (resource.RLIMIT_AS, {bytes}), (resource.RLIMIT_FSIZE, 0),
    (resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, 16), (resource.RLIMIT_NPROC, 0),
]:
    resource.setrlimit(_name, (_limit, _limit))
del resource, _name, _limit
"""
_FENCE = re.compile(r"```(?:python|py)?\n(.*?)(?:```|\Z)", re.S)


@dataclass(frozen=True, slots=True)
class CodeProblem:
    """A task in words, and the assertions that its program has to pass."""

    id: str
    text: str  # the prompt
    tests: tuple[str, ...]
    allowed: bool  # whether programs may be run
    seconds: float = SECONDS
    mebibytes: int = MEBIBYTES

    def __post_init__(self) -> None:
        if not self.allowed:
            raise ValueError(
                "problems with tests run programs that a model wrote: allow it, or take others"
            )

    def answer_in(self, text: str) -> tuple[str, ...] | None:
        """`passed` or `failed`; None if the text holds no program."""
        program = program_in(text)
        if program is None:
            return None
        passed = passes(program, self.tests, seconds=self.seconds, mebibytes=self.mebibytes)
        return ("passed" if passed else "failed",)

    def solved_by(self, text: str) -> bool:
        return self.answer_in(text) == ("passed",)


def code_problems(path: Path, *, allowed: bool = False) -> list[CodeProblem]:
    """The problems of a file like MBPP's: objects with a `text` or `prompt`, and a `test_list`.

    Raises:
        ValueError: programs are not `allowed` to run, there is no such file, or a line is not such
            an object.
    """
    problems = []
    for number, row in read_objects(path):
        text, tests = row.get("text") or row.get("prompt"), row.get("test_list")
        words = isinstance(tests, list) and all(isinstance(test, str) for test in tests)
        if not isinstance(text, str) or not words or not tests:
            raise ValueError(
                f"{path}, line {number}: expected a text, and a test_list of assertions"
            )
        shown = f"{text}\nThe function has to pass this test:\n{tests[0]}\n"
        problems.append(CodeProblem(f"code-{number}", shown, tuple(tests), allowed))
    return problems


def program_in(text: str) -> str | None:
    """The first fenced block, else everything from the first definition or import on."""
    fenced = _FENCE.search(text)
    if fenced:
        return fenced[1]
    begin = re.search(r"^(?:def|import|from|class) ", text, re.M)
    return text[begin.start() :] if begin else None


def passes(
    program: str,
    tests: Sequence[str],
    *,
    seconds: float = SECONDS,
    mebibytes: int = MEBIBYTES,
) -> bool:
    """Whether `program` passes all `tests` within the limits of time and memory."""
    done = secrets.token_hex(8)  # a program that ends early does not print it
    limits = _LIMITS.format(seconds=int(seconds) + 1, bytes=mebibytes * 2**20)
    source = "\n".join([limits, program, *tests, f"print({done!r})"])
    with tempfile.TemporaryDirectory() as folder:
        try:
            ended = subprocess.run(
                [sys.executable, "-I", "-S", "-B", "-c", source],
                cwd=folder,
                env={},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
    return ended.returncode == 0 and ended.stdout.decode(errors="replace").endswith(f"{done}\n")
