"""Scripts under Hydra: a failed run takes back only its own files, and a sweep says what failed."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = f"""
import os, sys, time
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from hydra.core.hydra_config import HydraConfig
from adaspec_rl.command import run
from adaspec_rl.config import CONF

def main(config):
    folder = Path(HydraConfig.get().runtime.output_dir)
    if config.env.max_length == 3:
        (folder / "policy").mkdir()
    if config.seed == 7:
        raise ValueError("seven is unlucky")
    if config.threads:
        print("working", flush=True)
        time.sleep(60)
    print(f"seed {{config.seed}} in {{folder}}", flush=True)
    return 1.0

if __name__ == "__main__":
    run(main, CONF, "train_policy")
"""


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    script = folder / "train.py"
    script.write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, str(script), *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )


def run(folder: Path, *arguments: str, code: int = 0) -> str:
    process = start(folder, *arguments)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == code, printed
    assert "Traceback" not in printed
    return printed


def everything(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.name != "train.py"
    }


def test_a_mistake_leaves_no_folder(tmp_path):
    printed = run(tmp_path, "seed=7", code=2)
    assert printed == "error: seven is unlucky\n"
    assert everything(tmp_path) == {}


USERS = ("thesis.log", "sub.log/data.bin", ".hydra/notes.txt", ".hydra/config.yaml", "train.log")


@pytest.mark.parametrize("where", [".", "mine"])
def test_a_mistake_deletes_none_of_the_users_files(tmp_path, where):
    folder = tmp_path / where
    for name in USERS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"the user's {name}")
    (folder / "empty").mkdir()
    before = everything(tmp_path)
    run(tmp_path, f"hydra.run.dir={where}", "seed=7", code=2)
    assert everything(tmp_path) == before


def test_a_mistake_keeps_an_empty_folder_of_the_users(tmp_path):
    (tmp_path / "mine" / ".hydra").mkdir(parents=True)
    before = everything(tmp_path)
    run(tmp_path, "hydra.run.dir=mine", "seed=7", code=2)
    assert everything(tmp_path) == before


def test_what_a_failed_run_has_made_stays(tmp_path):
    run(tmp_path, "hydra.run.dir=mine", "env.max_length=3", "seed=7", code=2)
    assert {"mine/policy", "mine/.hydra/config.yaml"} <= everything(tmp_path).keys()


def test_an_early_interruption_deletes_none_of_the_users_files(tmp_path):
    (tmp_path / "thesis.log").write_text("all of it")
    process = start(tmp_path, "hydra.run.dir=.", "threads=1")
    assert process.stdout is not None and process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert everything(tmp_path) == {"thesis.log": b"all of it"}


def test_runs_begun_in_the_same_second_have_folders_of_their_own(tmp_path):
    processes = [start(tmp_path, f"seed={seed}") for seed in range(3)]
    printed = [process.communicate(timeout=120)[0] for process in processes]
    folders = {re.sub(r"seed \d in ", "", text).strip() for text in printed}
    assert len(folders) == 3 and all(Path(folder).is_dir() for folder in folders)


def test_the_notes_of_an_earlier_run_stay(tmp_path):
    run(tmp_path, "hydra.run.dir=mine", "seed=1")
    notes = (tmp_path / "mine" / ".hydra" / "overrides.yaml").read_text()
    run(tmp_path, "hydra.run.dir=mine", "seed=2")
    assert (tmp_path / "mine" / ".hydra" / "overrides.yaml").read_text() == notes


def test_a_sweep_stops_at_its_first_failure_and_names_the_job(tmp_path):
    printed = run(tmp_path, "-m", "hydra.sweep.dir=sweep", "env.max_length=2", "seed=1,7,3", code=2)
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert errors == ["error: job 1 (env.max_length=2 seed=7): seven is unlucky"]
    assert "seed 1 in" in printed and "seed 3 in" not in printed
    jobs = {path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir()}
    assert jobs == {"0", "1"}  # the failed one keeps Hydra's notes, the last one never was


def test_an_interrupted_sweep_stops(tmp_path):
    process = start(tmp_path, "-m", "hydra.sweep.dir=sweep", "threads=1", "seed=1,2")
    assert process.stdout is not None
    while process.stdout.readline() != "working\n":
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "working" not in printed


def test_a_parallel_sweep_fails_with_its_job_and_finishes_the_others(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    printed = run(
        tmp_path, "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2",
        "hydra.sweep.dir=sweep", "seed=1,7,3", code=2,
    )  # fmt: skip
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert errors == ["error: job 1 (seed=7): seven is unlucky"]
    assert "seed 1 in" in printed and "seed 3 in" in printed
    assert (tmp_path / "sweep" / "1" / ".hydra" / "overrides.yaml").exists()
