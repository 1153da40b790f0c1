"""With a compiler, with a broken one, and with none."""

import logging
from pathlib import Path

import pytest
import torch

from adaspec_rl.engine.cpu import build
from adaspec_rl.engine.lean_model import LeanModel
from tests.engine.checkpoints import new_model

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nothing has been compiled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for function in (build.library, build._say_slower):
        function.cache_clear()
        monkeypatch.setattr(build, function.__name__, function)
    yield
    build.library.cache_clear()


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [("no-such-compiler", "is no program"), ("false", "cannot compile the decoder")],
)
def test_without_a_compiler(
    compiler: str,
    reason: str,
    fresh: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("CXX", compiler)
    model = new_model("llama", **SHAPE)
    config, tensors = model.config.to_dict(), model.state_dict()
    with pytest.raises(ValueError, match=f"engine.kernels=compiled: .*{reason}.*install a compil"):
        LeanModel.from_tensors(config, tensors.items(), "m", kernels="compiled")
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger=build.__name__):
        slower = LeanModel.from_tensors(config, tensors.items(), "m")
        LeanModel.from_tensors(config, tensors.items(), "m")
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1  # though it was loaded twice
    assert reason in caplog.text and slower.execution == "torch, float32, cpu"


def test_it_is_compiled_once(fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build.compiled("compiled")
    (made,) = (tmp_path / "adaspec_rl" / "cpu").glob("*.so")
    build.library.cache_clear()
    monkeypatch.setattr(build, "_compile", None)
    assert build.compiled("auto") and made.is_file()
    model = new_model("llama", **SHAPE)
    lean = LeanModel.from_tensors(model.config.to_dict(), model.state_dict().items(), "m")
    assert lean.execution == "compiled kernels, float32, cpu"


def test_unknown_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="kernels='quick' is unknown: expected one of"):
        build.compiled("quick")


def test_half_precision_runs_on_torch() -> None:
    model = new_model("llama", **SHAPE)
    tensors = model.state_dict().items()
    half = LeanModel.from_tensors(model.config.to_dict(), tensors, "m", dtype=torch.float16)
    assert half.execution == "torch, float16, cpu"
