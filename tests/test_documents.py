"""Code blocks of the README and the documents run; commands are ones that their programs accept.

A block that takes long is marked by a comment before it: `<!-- test: slow -->`, or, where it needs
a trained policy, `<!-- test: after training -->`, and then runs in `tests/test_packaging.py`.
"""

import argparse
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

from adaspec_rl import settings
from adaspec_rl.command import checked
from adaspec_rl.explanation import GROUPS
from tests import PROJECT
from tests.command_line import composed, configured

PAGES = sorted([PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *PROJECT.glob("docs/*.md")])
MARK = r"(?:<!-- test: (?P<mark>[^>]+) -->\n)?"
BLOCK = re.compile(MARK + r"```(?P<language>\w+)\n(?P<code>.*?)```", re.DOTALL)
SETTING = re.compile(r"[a-z_]+(\.[a-z_]+)*=\S+")
SCRIPTS = {
    "adaspec-train": "train_policy",
    "train_policy.py": "train_policy",
    "adaspec-evaluate": "evaluate",
    "evaluate.py": "evaluate",
}
TOOLS = {  # what each one's settings are called
    "adaspec_rl.tools.distill": "DistillConfig",
    "adaspec_rl.tools.choose": "ChooseConfig",
    "adaspec_rl.tools.table": "TableConfig",
    "adaspec_rl.tools.tune": "TuneConfig",
    "adaspec_rl.interop.export": "ExportConfig",
    "adaspec_rl.interop.predict": "PredictConfig",
}
ELSEWHERE = {"python3", "pip", ".", "ruff", "mypy", "git", "mkdocs"}  # programs of others
MODULES = {"pytest", "build"}


@dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    page: str
    line: int
    language: str
    code: str
    mark: str | None


def blocks(path: Path) -> Iterator[Block]:
    text = path.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        page = str(path.relative_to(PROJECT))
        yield Block(page, line, found["language"], found["code"], found["mark"])


BLOCKS = [block for path in PAGES for block in blocks(path)]
PYTHON = {
    page: [block for block in BLOCKS if block.language == "python" and block.page == page]
    for page in sorted({block.page for block in BLOCKS if block.language == "python"})
}


def commands(block: Block) -> list[str]:
    """Each command of a block of them, comments and line breaks taken out."""
    lines = re.sub(r"\\\n", " ", block.code).splitlines()
    bare = [re.sub(r"(^|\s)#.*", "", line) for line in lines]
    return [part.strip() for line in bare for part in line.split("&&") if part.strip()]


COMMANDS = [
    pytest.param(command, id=f"{block.page}:{block.line}: {command[:50]}")
    for block in BLOCKS
    if block.language == "bash"
    for command in commands(block)
]
SPANS = [
    pytest.param(span, id=f"{path.stem}: {span[:50]}")
    for path in PAGES
    for span in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", BLOCK.sub("", path.read_text("utf-8")))
    if SETTING.fullmatch(span.split()[0].strip("'")) or span.split()[0] in SCRIPTS
]


def test_pages_have_code_of_every_kind():
    assert {block.language for block in BLOCKS} >= {"bash", "python"}
    assert len(COMMANDS) > 5 and len(SPANS) > 50
    assert all(block.language in {"bash", "python", "text", "yaml"} for block in BLOCKS)


@pytest.mark.parametrize(
    ("page", "mark"),
    [
        *((page, None) for page in PYTHON),
        *(
            pytest.param(page, "slow", marks=pytest.mark.slow)
            for page, found in PYTHON.items()
            if any(block.mark == "slow" for block in found)
        ),
    ],
)
def test_python_runs(page, mark, tmp_path, monkeypatch):
    """All blocks of a page one after the other, as a reader types them."""
    monkeypatch.chdir(tmp_path)
    scope = {"__name__": "__main__"}
    for block in PYTHON[page]:
        if block.mark == mark:
            code = "\n" * block.line + block.code
            exec(compile(code, str(PROJECT / page), "exec"), scope)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_one_that_its_program_accepts(command, monkeypatch):
    accept(command, monkeypatch)


@pytest.mark.parametrize("span", SPANS)
def test_a_setting_in_a_sentence_is_one(span, monkeypatch):
    words = shlex.split(span)
    if words[0] in SCRIPTS:
        accept(span, monkeypatch)
        return
    refusals = []
    for program in ("train_policy", "evaluate", *TOOLS):
        if (refusal := _refused(words, program)) is None:
            return
        refusals.append(refusal)
    pytest.fail(f"no program accepts {span}: {refusals}")


def _refused(words: list[str], program: str) -> str | None:
    """Why a program does not accept these settings; None if it does, or lacks a package only."""
    try:
        (_settings if program in TOOLS else _compose)(program, words)
    except Exception as error:
        return None if "pip install" in str(error) else f"{program}: {error}"
    return None


def accept(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check a command as far as that goes without running it."""
    program, *words = shlex.split(command)
    program = Path(program).name if program != "." else program
    if program == "python" and words[0] == "-m":
        _, module, *words = words
        if module not in MODULES:
            _understood_by_module(module, words, monkeypatch)
    elif program == "python" and words[0] in SCRIPTS:
        _compose(SCRIPTS[words[0]], words[1:])
    elif program == "python":
        _understood_by_script(PROJECT / words[0], words[1:], monkeypatch)
    elif program in SCRIPTS:
        _compose(SCRIPTS[program], words)
    else:
        assert program in ELSEWHERE, f"no test knows {program}"


def _compose(script: str, words: list[str]) -> None:
    if "--config-dir" in words:  # a folder of the reader's own
        return
    words = [re.sub(r"\bNAME$", "cpu_2_threads", word) for word in words if word != "-m"]
    words = [re.sub(r"=[^\[,]+,.*", "", word) if word.count(",") else word for word in words]
    words = [word for word in words if "=" in word]
    if any(word.split("=")[0] in GROUPS or word.startswith("cost=") for word in words):
        checked(composed(*words, script=script), script)
    else:
        configured(*words, script=script)  # without a file to choose: a hundred times as fast


def _settings(module: str, words: list[str]) -> None:
    """Let a tool read its settings; those that it cannot do without are filled in."""
    schema = getattr(import_module(module), TOOLS[module])
    required = ["model.target=X", "data=X", "out=X", "candidates=[ngram]", "policy=X", "to=vllm"]
    known = settings._settings(schema)
    filled = [word for word in required if word.split("=")[0] in known]
    settings.parse(schema, [*filled, *words])


class _Fine(BaseException):
    """What was asked for was understood."""


def _stopping(read: Callable[..., object]) -> Callable[..., None]:
    def understand(*given: object) -> None:
        read(*given)
        raise _Fine

    return understand


def _understood(run: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a program read its command line, and stop there."""
    for name in ("parse_args", "parse_intermixed_args"):
        read = getattr(argparse.ArgumentParser, name)
        monkeypatch.setattr(argparse.ArgumentParser, name, _stopping(read))
    with pytest.raises(_Fine):
        run()


def _understood_by_module(name: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module(name)
    if hasattr(module, "parse"):
        monkeypatch.setattr(module, "parse", _stopping(settings.parse))
    _understood(lambda: module.main(words), monkeypatch)


def _understood_by_script(script: Path, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert script.is_file(), f"there is no {script}"
    if "argparse" not in script.read_text(encoding="utf-8"):  # an example
        return
    monkeypatch.setattr(sys, "argv", [str(script), *words])
    monkeypatch.syspath_prepend(str(script.parent))
    before = set(sys.modules)
    _understood(lambda: runpy.run_path(str(script), run_name="__main__"), monkeypatch)
    for name in set(sys.modules) - before:
        if (script.parent / f"{name}.py").exists():
            sys.modules.pop(name)


def test_the_readme_is_short():
    assert len((PROJECT / "README.md").read_bytes()) <= 8000


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_links_lead_somewhere(path):
    """To files that exist, and to headings that do."""
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", target):
            continue
        file, _, anchor = target.partition("#")
        page = (path.parent / file).resolve() if file else path
        assert page.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles}


def test_every_name_of_the_reference_is_there():
    for name in re.findall(r"^::: (\S+)$", (PROJECT / "docs" / "api.md").read_text(), re.M):
        module, _, leaf = name.rpartition(".")
        assert hasattr(import_module(module), leaf) or import_module(name), name
