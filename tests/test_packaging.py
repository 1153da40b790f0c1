"""What users install: the wheel, in an environment and a folder where nothing else of ours is."""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests import PROJECT
from tests.test_documents import PYTHON

pytestmark = pytest.mark.slow
SMOKE = "experiment=smoke"


def done(*command: str | Path, cwd: Path) -> str:
    """What a command printed, this checkout out of its sight."""
    hidden = {"PYTHONPATH", "VIRTUAL_ENV"}
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    ran = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**environment, "WANDB_MODE": "offline"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The folder of the source archive, and of the wheel that was built from that."""
    folder = tmp_path_factory.mktemp("dist")
    done(sys.executable, "-m", "build", "--outdir", folder, PROJECT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def programs(built, tmp_path_factory) -> Path:
    """Where a fresh environment with the wheel has its programs; other packages are this one's."""
    folder = tmp_path_factory.mktemp("fresh")
    done(sys.executable, "-m", "venv", folder, cwd=folder)
    python = folder / "bin" / "python"
    done(python, "-m", "pip", "install", "--no-deps", *built.glob("*.whl"), cwd=folder)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")  # after the wheel
    return folder / "bin"


@pytest.fixture(scope="module")
def empty(programs, tmp_path_factory) -> Path:
    """A folder that was empty before the first training."""
    folder = tmp_path_factory.mktemp("empty")
    where = "import adaspec_rl; print(adaspec_rl.__file__)"
    at = done(programs / "python", "-c", where, cwd=folder).strip()
    assert Path(at).is_relative_to(programs.parent)
    done(programs / "adaspec-train", SMOKE, cwd=folder)
    return folder


def test_archive_and_wheel_hold_settings_models_and_licence(built):
    (wheel,), (archive,) = built.glob("*.whl"), built.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
    for path in (PROJECT / "adaspec_rl").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert str(path.relative_to(PROJECT)) in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "benchmarks/", "conf/")) for name in names)
    with tarfile.open(archive) as packed_source:
        sources = {name.partition("/")[2] for name in packed_source.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "adaspec_rl/conf/shared.yaml"} <= sources


def test_training_and_comparing_work_from_an_empty_folder(programs, empty):
    done(programs / "adaspec-evaluate", SMOKE, cwd=empty)
    assert {path.name for path in empty.iterdir()} == {"runs"}
    (compared,) = (empty / "runs" / "evaluate").iterdir()
    results = json.loads((compared / "results.json").read_text())
    assert results["command"] == "adaspec-evaluate experiment=smoke"


def test_documents_use_the_trained_policy(programs, empty):
    marked = [block for page in PYTHON.values() for block in page if block.mark == "after training"]
    assert marked
    for block in marked:
        printed = done(programs / "python", "-c", block.code, cwd=empty)
        assert "def main(" in printed or printed.strip()


def test_a_report_is_read_with_pandas(programs, empty):
    script = PROJECT / "examples" / "read_report.py"
    printed = done(programs / "python", script, cwd=empty)
    assert "learned" in printed and "dialogue" in printed and "fixed_4" in printed
