"""Imports point one way only: each part of the package stands on those before it in `LAYERS`.

Within a part, modules may import each other in any order, but never in a circle.
"""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "adaspec_rl"
LAYERS = (
    # files and words
    *("limits", "files", "strict_json", "console"),
    # settings
    *("config", "config_limits", "config_conflicts", "run_identity", "run_folder"),
    # decoding
    *("data", "engine", "decoding", "pairs"),
    # what runs commands and explains mistakes; it knows when the engine ran out of memory
    *("explanation", "command", "settings"),
    # learning: decided, costed, recorded, replayed
    *("control", "costs", "recording", "replay"),
    # from a configuration to all of these
    *("from_config", "prompts"),
    *("envs", "training", "comparison", "report"),
    # other people's stacks, then commands
    *("interop", "tools"),
    "scripts",  # what `adaspec-train` and `adaspec-evaluate` call
)
Graph = dict[str, set[str]]


def modules() -> dict[str, Path]:
    """Every module by its name without the package's own."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(known: set[str], name: str, source: str) -> set[str]:
    """The modules that one imports, wherever it does: in functions and for types, too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} imports relatively, which this test does not follow"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            submodules = {item for item in whole if item.removeprefix("adaspec_rl.") in known}
            found |= submodules
            if whole - submodules:
                found.add(str(node.module))
    own = {item.removeprefix("adaspec_rl.") for item in found if item.startswith("adaspec_rl.")}
    assert own <= known, f"{name} imports {own - known}, which are not there"
    return own


def graph() -> Graph:
    known = modules()
    return {
        name: imports(set(known), name, path.read_text(encoding="utf-8"))
        for name, path in known.items()
    }


def upward(found: Graph) -> list[str]:
    """Imports of a part that stands on the importing one."""
    rank = {name: number for number, name in enumerate(LAYERS)}
    return [
        f"{name} -> {other}"
        for name, others in sorted(found.items())
        for other in sorted(others)
        if name and rank[name.split(".")[0]] < rank[other.split(".")[0]]
    ]


def circles(found: Graph) -> set[str]:
    """Modules on a circle, or between two: what is left when all free ends are taken away."""
    left = dict(found)
    while True:
        inner = {other for others in left.values() for other in others}
        kept = {n: left[n] & left.keys() for n in left if n in inner and left[n] & left.keys()}
        if len(kept) == len(left):
            return set(kept)
        left = kept


def test_every_part_has_its_layer():
    parts = {name.split(".")[0] for name in modules()} - {""}
    assert parts == set(LAYERS) and len(parts) == len(LAYERS)


def test_no_import_points_up():
    assert upward(graph()) == []


def test_no_modules_import_each_other_in_a_circle():
    assert circles(graph()) == set()


def test_an_import_is_seen_wherever_it_is():
    known = {"control.action", "training", "training.train"}
    source = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from adaspec_rl.training import train
def late():
    import adaspec_rl.control.action
"""
    found = imports(known, "engine", source)
    assert found == {"control.action", "training.train"}
    assert upward({"engine": found, "replay": {"control.action"}}) == [
        "engine -> control.action",
        "engine -> training.train",
    ]
    looped = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}, "e": set()}
    assert circles(looped) == {"b", "c"}
