"""A target split over two processes writes the same text as in one, and the first decides."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from adaspec_rl.engine.load_options import LoadOptions
from adaspec_rl.engine.loading import load_model
from tests.engine.checkpoints import new_model, save

ROOT = Path(__file__).parents[2]
SCRIPT = f"""
import os, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from adaspec_rl.command import run
from adaspec_rl.config import CONF
from adaspec_rl.scripts import follow

def main(config):
    import torch
    from adaspec_rl.decoding.round import Action
    from adaspec_rl.decoding.session import LiveSession
    from adaspec_rl.from_config import pair_from
    from adaspec_rl.decoding.sampling import Sampling
    torch.set_num_threads(1)
    pair = pair_from(config.model, config.engine)
    session = LiveSession(
        pair.target, pair.drafters, eos_ids=(), max_new_tokens=40,
        sampling=Sampling(config.env.temperature), verification="coupled",
    )
    if "FAILS" in os.environ:
        def fails(*arguments, **settings):
            raise ValueError("the first process fails")
        pair.target.weights.forward = fails
    held = [getattr(w, "to_local", lambda w=w: w)() for w in pair.target.weights.parameters()]
    lines = [f"{{sum(w.numel() for w in held)}} {{pair.target.execution}}"]
    for number in range(3):
        session.start(list(range(1, 9 + number)), seed=number)
        lengths = iter((0, 3, 5, 1) * 40)
        tokens = []
        while not session.finished:
            tokens += session.step(Action(next(lengths))).tokens
        lines.append(" ".join(map(str, tokens)))
    Path(f"rank{{os.environ.get('RANK', 0)}}.txt").write_text("\\n".join(lines))

if __name__ == "__main__":
    run(main, CONF, "train_policy", follow)
"""
SETTINGS = ["model=pair", "model.target=tiny:target", "model.drafter=tiny:draft"]


def run(
    folder: Path, launch: list[str], *settings: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    return subprocess.run(
        [*launch, str(script), *SETTINGS, "model.device=cpu", "model.dtype=float32", *settings],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        timeout=300,
    )


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0, 0.8])
def test_two_processes_write_what_one_writes(tmp_path: Path, temperature: float) -> None:
    pytest.importorskip("accelerate")
    warm = f"env.temperature={temperature}"
    together, alone = tmp_path / "together", tmp_path / "alone"
    together.mkdir(), alone.mkdir()
    done = run(together, TORCHRUN, "model.tensor_parallel=2", warm)
    assert done.returncode == 0, done.stderr
    done = run(alone, [sys.executable], "engine.name=transformers", warm)
    assert done.returncode == 0, done.stderr
    first, *texts = (together / "rank0.txt").read_text().split("\n")
    first_alone, *expected = (alone / "rank0.txt").read_text().split("\n")
    assert texts == expected and len(texts) == 3
    (share, split), (all_of_it, whole) = first.split(" ", 1), first_alone.split(" ", 1)
    assert split == f"{whole}, split over 2 processes"
    assert int(share) < 0.9 * int(all_of_it)  # the embedding is in both
    assert not (together / "rank1.txt").exists()  # the second process only computes


@pytest.mark.slow
def test_nobody_waits_for_a_process_that_failed(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    done = run(tmp_path, TORCHRUN, "model.tensor_parallel=2", FAILS="1")
    assert done.returncode != 0
    assert "error: the first process fails" in done.stderr


@pytest.mark.slow
def test_processes_must_be_as_many_as_configured(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    done = run(tmp_path, [sys.executable], "model.tensor_parallel=2")
    assert done.returncode == 2
    assert "error: model.tensor_parallel=2 needs 2 processes, but there is 1: run torchrun" in (
        done.stderr
    )


def test_what_does_not_go_together_is_refused() -> None:
    for options, message in (
        ({"device_map": "auto"}, "tensor_parallel and device_map do not go together"),
        ({"quantize": "int8"}, "tensor_parallel and quantize do not go together"),
        ({"engine": "lean"}, "tensor_parallel needs engine='transformers'"),
    ):
        with pytest.raises(ValueError, match=message):
            LoadOptions(tensor_parallel=2, **options)


def test_a_model_without_a_plan_is_refused(tmp_path: Path) -> None:
    folder = save(new_model("gpt2"), tmp_path / "gpt2")
    with pytest.raises(ValueError, match="transformers has no plan to split gpt2"):
        load_model(folder, LoadOptions(tensor_parallel=2))
