"""W&B: a run begins before any work, offline where it cannot begin online."""

import io
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import wandb
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console

from adaspec_rl import config as schema
from adaspec_rl.config import CONF, LoggerConfig
from adaspec_rl.report.publish import open_run
from adaspec_rl.tools import evaluate, train
from tests import PROJECT


class Run:
    """An open run."""

    dir = "FOLDER/wandb/offline-run-1/files"
    code = None

    def __enter__(self):
        return self

    def __exit__(self, kind, *rest):
        self.code = int(kind is not None)


@pytest.fixture
def begun(monkeypatch):
    """Settings of each try to begin a run; those online fail with `error`."""
    state = SimpleNamespace(tries=[], error=None, refusal=None, run=Run())

    def init(**settings):
        state.tries.append(settings)
        if state.error and settings.get("mode") != "offline":
            raise state.error
        if state.refusal:
            raise state.refusal
        return state.run

    monkeypatch.setattr(wandb, "init", init)
    return state


def opened(tmp_path, name="wandb"):
    file = io.StringIO()
    console = Console(file=file, width=40)
    with open_run(LoggerConfig(name=name), tmp_path, {"seed": 3}, console, "train") as run:
        pass
    return run, file.getvalue()


def test_a_run_is_online_where_it_can_be(begun, tmp_path):
    assert opened(tmp_path) == (begun.run, "") and begun.run.code == 0
    (settings,) = begun.tries
    assert settings["config"] == {"seed": 3} and settings["job_type"] == "train"
    assert settings["settings"].init_timeout == 10
    assert opened(tmp_path, "csv") == (None, "") and len(begun.tries) == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (wandb.errors.UsageError("No API key configured. Use `wandb login`."),
         "No API key configured. Use `wandb login`"),
        (wandb.errors.CommError("Timed out [/oops]\nConsider increasing"), "Timed out [/oops]"),
    ],
)  # fmt: skip
def test_without_key_or_network_a_run_is_offline_and_says_so(begun, tmp_path, error, reason):
    begun.error = error
    assert opened(tmp_path) == (
        begun.run,
        f"W&B: this run is kept offline ({reason}); send it later with wandb sync "
        "FOLDER/wandb/offline-run-1\n",
    )
    assert [settings.get("mode") for settings in begun.tries] == [None, "offline"]


def test_refused_settings_are_one_sentence(begun, tmp_path):
    begun.error = begun.refusal = wandb.errors.UsageError("Invalid project name 'a/b'")
    with pytest.raises(ValueError, match="W&B refuses the run: Invalid project name 'a/b'"):
        opened(tmp_path)


@pytest.mark.parametrize("module", [train, evaluate])
def test_scripts_begin_their_run_before_they_load_models(begun, tmp_path, monkeypatch, module):
    class Loaded(Exception):
        pass

    def load(*_):
        assert len(begun.tries) == 1
        raise Loaded

    monkeypatch.setattr(module, "pair_from", load)
    script = module.train_policy if module is train else module.evaluate_policy
    config = composed(module)
    with pytest.raises(Loaded):
        script(config, tmp_path, Console(quiet=True))
    assert begun.run.code == 1


def composed(module):
    """A script's configuration, with W&B."""
    schema.register()
    script = "train_policy" if module is train else "evaluate"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_object(compose(script, overrides=["logger=wandb"]))


@pytest.mark.slow  # wandb itself: some seconds
def test_wandb_without_a_key(tmp_path):
    code = (
        "import sys; from pathlib import Path; from rich.console import Console\n"
        "from adaspec_rl.config import CONF, LoggerConfig\n"
        "from adaspec_rl.report.publish import open_run\n"
        "folder = Path(sys.argv[1])\n"
        "with open_run(LoggerConfig(name='wandb'), folder, {}, Console(), 'train') as run:\n"
        "    run.log({'a': 1})\n"
    )
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=PROJECT,
        env={**kept, "HOME": str(tmp_path), "NETRC": str(tmp_path / "none")},
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert "this run is kept offline (No API key configured" in done.stdout
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 1
