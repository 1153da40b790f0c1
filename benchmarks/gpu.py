"""All GPU measurements, in one command of at most nine minutes.

    python benchmarks/gpu.py [--json PATH] [--sections NAME ...] [--policy FOLDER] [--rehearse]

Each section is a command of its own with a time limit: `tests` (`pytest -m gpu`), `exactness` in
float32 and bfloat16, `engine` (forwards, rounds and memory bandwidth of the embedded pair inflated
to 8B and 1B), `costs` (by batch size and context), `policy` (live, one text at a time). If a
section fails or takes too long, the end of its output is kept and the next section begins. The JSON
is rewritten after each section. Only torch, transformers and pytest are required: a section that
needs gymnasium or Hydra says that it was skipped, and why.

`--rehearse` runs the same commands on the CPU with small shapes.
"""

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from report import about
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
BENCHMARKS = Path(__file__).parent
NAMES = ("tests", "exactness", "engine", "costs", "policy")
MINUTES = 9.0
PRINTED = 3000  # characters of a section's output that are kept
OPTIONAL = ("gymnasium", "hydra", "stable_baselines3", "wandb")
OK, FAILED, LATE, SKIPPED = "ok", "failed", "timed out", "skipped"


@dataclass(frozen=True, slots=True)
class Section:
    """One command and its time limit in seconds."""

    name: str
    command: tuple[str, ...]
    seconds: float
    result: str | None = None  # the JSON file that it writes


@dataclass(slots=True)
class Outcome:
    """The outcome of a section."""

    status: str
    command: str
    seconds: float = 0.0
    printed: str = ""  # the end of its output, if there is no result
    result: dict[str, Any] = field(default_factory=dict)


def sections(options: argparse.Namespace, folder: Path) -> list[Section]:
    """All sections, at full size or for a rehearsal."""
    small = options.rehearse
    python = sys.executable
    device = ("--device", "cpu" if small else "cuda")
    threads = ("--threads", str(options.threads))
    shapes = ("test", "test") if small else ("llama8b", "llama1b")
    shaped = ("--shape", shapes[0], "--drafter-shape", shapes[1])

    def section(name: str, script: str, seconds: float, *arguments: str) -> Section:
        file = str(folder / f"{name}.json")
        command = (python, str(BENCHMARKS / script), *arguments, "--json", file)
        return Section(name, command, seconds, file)

    def exactness(dtype: str) -> Section:
        size = ("--prompts", "1", "--max-new-tokens", "8") if small else ("--prompts", "4")
        name = f"exactness_{dtype}"
        return section(name, "exactness.py", 45, *device, *threads, "--dtype", dtype, *size)

    tests = sorted(
        str(path)
        for path in (ROOT / "tests").rglob("test_*.py")
        if "mark.gpu" in path.read_text(encoding="utf-8")
    )
    pytest = (python, "-m", "pytest", "-m", "gpu", "-rs", "--color=no", *tests)
    engine = ("--prompts", "1", "--repeats", "1", "--fallbacks", "20") if small else (
        "--prompts", "1", "--repeats", "8", "--fallbacks", "300"
    )  # fmt: skip
    costs = ("64",) if small else ("256", "2048")
    batches = ("1", "2") if small else ("1", "4", "16", "64")
    policy = ("--train-prompts", "2", "--prompts", "1", "--max-new-tokens", "8",
              "--fit-steps", "2000", "--lengths", "2") if small else ()  # fmt: skip
    if options.policy:
        policy += ("--policy", str(options.policy))
    if "costs" in options.sections:
        policy += ("--costs", str(folder / "costs.json"))
    return [
        Section("tests", pytest, 80),
        exactness("float32"),
        exactness("bfloat16"),
        section(
            "engine", "engine.py", 130, *device, *threads, "--inflated", *shaped,
            "--contexts", *(("32",) if small else ("256", "2048", "8192")), *engine,
        ),
        section(
            "costs", "live_costs.py", 120, *device, *threads, *shaped, "--contexts", *costs,
            "--batch-sizes", *batches, "--seconds", "2" if small else "70",
        ),
        section("policy", "live_policy.py", 120, *device, *threads, *shaped, *policy),
    ]  # fmt: skip


def run(section: Section, seconds: float) -> Outcome:
    """Run a section for at most `seconds`; processes that it started end with it."""
    outcome = Outcome(OK, " ".join(section.command))
    began = time.monotonic()
    process = subprocess.Popen(
        section.command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path_with_root(), "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        printed, _ = process.communicate()
        outcome.status = LATE
    outcome.seconds = time.monotonic() - began
    if outcome.status == OK and process.returncode:
        outcome.status = FAILED
    print(printed)
    if outcome.status != OK or section.result is None:
        outcome.printed = printed[-PRINTED:]
    if section.result and Path(section.result).is_file():
        outcome.result = json.loads(Path(section.result).read_text())
    return outcome


def path_with_root() -> str:
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def run_all(planned: Iterable[Section], minutes: float, path: Path | None) -> dict[str, Outcome]:
    """Run sections one after another while time is left; write each result at once."""
    until = time.monotonic() + 60 * minutes
    outcomes: dict[str, Outcome] = {}
    for section in planned:
        left = until - time.monotonic()
        print(f"== {section.name}: up to {min(left, section.seconds):.0f} s", flush=True)
        if left < 1:
            outcomes[section.name] = Outcome(
                SKIPPED, " ".join(section.command), printed="no time left"
            )
        else:
            outcomes[section.name] = run(section, min(left, section.seconds))
        if path:
            save(outcomes, path)
    return outcomes


def save(outcomes: dict[str, Outcome], path: Path) -> None:
    content = {
        **about(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        "missing": [name for name in OPTIONAL if importlib.util.find_spec(name) is None],
        "sections": {name: asdict(outcome) for name, outcome in outcomes.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sections", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for all of it")
    parser.add_argument("--policy", type=Path, help="a bundle trained for the inflated pair")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, in small shapes")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="all cores by default")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if not options.rehearse and not torch.cuda.is_available():
        parser.error("there is no CUDA device: add --rehearse to run it on the CPU")
    with tempfile.TemporaryDirectory() as folder:
        planned = [
            section
            for section in sections(options, Path(folder))
            if section.name.partition("_")[0] in options.sections
        ]
        outcomes = run_all(planned, options.minutes, options.json)
    table = Table(title="Sections", title_justify="left")
    for name in ("section", "status", "seconds"):
        table.add_column(name)
    for name, outcome in outcomes.items():
        table.add_row(name, outcome.status, f"{outcome.seconds:.0f}")
    Console().print(table)
    if any(outcome.status != OK for outcome in outcomes.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
