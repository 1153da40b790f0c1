"""The embedded corpus: text that every Python installation ships, in three domains.

* `code`: the standard library's sources;
* `prose`: its reference texts (`pydoc_data.topics`) and all docstrings, C modules' included;
* `dialogue`: word problems from `adaspec_rl.data.word_problems`.

Every source file, reference text and seed belongs to exactly one split, by a hash of its name:
`fit` trains the language models, `train` supplies the prompts that policies learn from, and `test`
the prompts they are judged on. No figure is ever reported on anything but `test`.
"""

import ast
import hashlib
import importlib
import inspect
import itertools
import sys
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from pathlib import Path

from adaspec_rl.data.word_problems import conversations

DOMAINS = ("code", "prose", "dialogue")
SPLITS = ("fit", "train", "test")
DIALOGUE_SEEDS = {"fit": 1, "train": 2, "test": 3}
# Tables and generated files are not natural text; tests are not shipped everywhere.
EXCLUDED_FOLDERS = {
    "site-packages", "dist-packages", "encodings", "pydoc_data", "lib2to3", "idlelib", "test",
    "tests", "__pycache__",
}  # fmt: skip
MAX_FILE_BYTES = 200_000


def split_of(name: str) -> str:
    """The split that a document belongs to: about 86% `fit`, 9% `train`, 5% `test`."""
    bucket = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % 100
    return "test" if bucket < 5 else "train" if bucket < 14 else "fit"


def source_files() -> list[tuple[str, Path]]:
    """The standard library's Python files as sorted `(name, path)` pairs."""
    root = Path(sysconfig.get_path("stdlib"))
    files = []
    for path in root.rglob("*.py"):
        relative = path.relative_to(root)
        if EXCLUDED_FOLDERS.isdisjoint(relative.parts) and path.stat().st_size <= MAX_FILE_BYTES:
            files.append((relative.as_posix(), path))
    return sorted(files)


def _read(path: Path) -> str | None:
    try:
        with tokenize.open(path) as file:  # honours the encoding cookie
            text = file.read()
    except (SyntaxError, UnicodeDecodeError):  # test fixtures that are broken on purpose
        return None
    return text if text.strip() else None


def code_documents(split: str) -> Iterator[str]:
    """Source files of one split."""
    for name, path in source_files():
        if split_of(name) == split and (text := _read(path)):
            yield text


def _docstrings(source: str) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))
    return [text for text in found if text and len(text) >= 60]


def _builtin_docstrings(module: str) -> list[str]:
    loaded = importlib.import_module(module)
    found = []
    for _, member in sorted(vars(loaded).items(), key=lambda item: item[0]):
        owned = [member, *vars(member).values()] if inspect.isclass(member) else [member]
        found += [inspect.cleandoc(doc) for item in owned if (doc := _own_doc(item))]
    return list(dict.fromkeys(text for text in found if len(text) >= 60))


def _own_doc(item: object) -> str | None:
    doc = getattr(item, "__doc__", None)
    return doc if isinstance(doc, str) and not isinstance(item, (int, str, float, tuple)) else None


def prose_documents(split: str) -> Iterator[str]:
    """Reference texts and docstrings of one split; a file's docstrings form one document."""
    topics = importlib.import_module("pydoc_data.topics").topics
    for name, text in sorted(topics.items()):
        if split_of(f"topic:{name}") == split:
            yield text
    for name, path in source_files():
        source = _read(path) if split_of(name) == split else None
        if source and (docs := _docstrings(source)):
            yield "\n\n".join(docs) + "\n"
    for module in sorted(sys.builtin_module_names):
        if split_of(module) == split and (docs := _builtin_docstrings(module)):
            yield "\n\n".join(docs) + "\n"


def dialogue_documents(split: str, count: int = 20_000) -> Iterator[str]:
    """`count` generated conversations of one split."""
    return itertools.islice(conversations(DIALOGUE_SEEDS[split]), count)


def documents(domain: str, split: str) -> Iterator[str]:
    """All documents of a domain (`code`, `prose`, `dialogue`) and split, in a fixed order."""
    if domain not in DOMAINS:
        raise ValueError(f"unknown domain {domain!r}: expected one of {', '.join(DOMAINS)}")
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
    reader = {"code": code_documents, "prose": prose_documents, "dialogue": dialogue_documents}
    return reader[domain](split)
