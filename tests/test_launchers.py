"""Sweeps on several processes: launchers' settings, and two jobs at once on one recording."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from adaspec_rl import config as schema

ROOT = Path(__file__).parents[1]
SCRIPT = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from hydra.core.hydra_config import HydraConfig
from adaspec_rl.command import run
from adaspec_rl.config import CONF

def main(config):
    from adaspec_rl.console import standard_output
    from adaspec_rl.from_config import pair_from, recording_from
    from adaspec_rl.prompts import prompts_from
    console = standard_output()
    pair = pair_from(config.model, config.engine)
    prompts = prompts_from(config, "train", pair, console, config.replay.prompts)
    trace, _ = recording_from(config, pair, prompts, console)
    folder = Path(HydraConfig.get().runtime.output_dir)
    (folder / "recording.txt").write_text(f"{{trace.fingerprint}} {{trace.starts[-1]}}")
    return 1.0

if __name__ == "__main__":
    run(main, CONF, "train_policy")
"""
LAUNCHERS = {  # ours, and the plugin's that it goes by
    "parallel": ("joblib", {"n_jobs": 2}),
    "processes": ("submitit_local", {"timeout_min": 1440}),
    "slurm": ("submitit_slurm", {"gpus_per_node": 1, "max_num_timeout": 3}),
}


def launcher(name: str):
    """Its settings, as composed for a training."""
    schema.register()
    with initialize_config_dir(str(schema.CONF), version_base="1.3"):
        config = compose("train_policy", [f"hydra/launcher={name}"], return_hydra_config=True)
    return OmegaConf.to_container(config.hydra.launcher, resolve=False)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_is_its_plugins_with_settings_of_ours(name):
    plugin, ours = LAUNCHERS[name]
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    made, known = launcher(name), launcher(plugin)
    assert set(made) == set(known) and made["_target_"] == known["_target_"]
    assert {key: made[key] for key in ours} == ours


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["parallel", "submitit_local"])
def test_two_jobs_at_once_share_a_recording(launcher, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [
            sys.executable, str(script), "-m", f"hydra/launcher={launcher}",
            "hydra.sweep.dir=sweep", "agent.learning_rate=1e-4,3e-4", "threads=1",
            "replay.prompts=2", "env.max_new_tokens=8", "env.max_length=2",
        ],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = {(tmp_path / "sweep" / job / "recording.txt").read_text() for job in "01"}
    assert len(found) == 1
    (folder,) = (tmp_path / "runs" / "traces").iterdir()
    assert folder.name == found.pop().split()[0]
    assert not [path for path in folder.iterdir() if path.name.endswith(".partial")]
