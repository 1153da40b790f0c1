"""How bfloat16 is multiplied: measured once, stated, and with equal bits at every width."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from adaspec_rl.engine.cpu import choice
from adaspec_rl.engine.cpu.build import library
from adaspec_rl.engine.lean_model import LeanModel
from adaspec_rl.engine.machine import processor
from tests.engine.checkpoints import new_model, random_tokens


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of a machine on which nothing has been measured."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    choice._measured.cache_clear()
    yield tmp_path / "adaspec_rl" / "cpu" / "multiplications.json"
    choice._measured.cache_clear()


def decide(path: Path, pairs: float) -> None:
    """Write that products of pairs take so many seconds, and everything else one."""
    key = f"{processor()}, {torch.get_num_threads()} threads"
    seconds = {"float32": 1.0, "bfloat16": 1.0, "bfloat16 pairs": pairs}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({key: seconds}))
    choice._measured.cache_clear()


def new() -> LeanModel:
    model = new_model("llama", hidden_size=64, intermediate_size=96, num_hidden_layers=2)
    tensors = model.state_dict().items()
    return LeanModel.from_tensors(model.config.to_dict(), tensors, "m", dtype=torch.bfloat16)


def test_it_is_measured_once(measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = choice.fastest_dtype(), choice.multiplies_pairs()
    pairs = {"bfloat16 pairs"} if library().multiplies_bfloat16() else set()
    assert set(json.loads(measured.read_text()).popitem()[1]) == {"float32", "bfloat16"} | pairs
    choice._measured.cache_clear()
    monkeypatch.setattr(choice, "_seconds", None)
    assert (choice.fastest_dtype(), choice.multiplies_pairs()) == first


def test_the_faster_type_is_chosen(measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 too where the processor cannot multiply it."""
    seconds = {torch.float32: 1.0}
    monkeypatch.setattr(choice, "_seconds", lambda dtype, pairs: seconds[dtype])
    for halves, found in ((0.5, torch.bfloat16), (2.0, torch.float32)):
        seconds[torch.bfloat16] = halves
        choice._measured.cache_clear()
        measured.unlink(missing_ok=True)
        assert choice.fastest_dtype() == found
        assert not choice.multiplies_pairs()


@pytest.mark.skipif(
    not library().multiplies_bfloat16(), reason="this processor does not multiply bfloat16"
)
def test_both_ways(measured: Path) -> None:
    """Each with equal bits at all widths, a name of its own, and bits of its own."""
    tokens = random_tokens(1, 40)
    logits, names = [], []
    for pairs in (0.5, 0.95):
        decide(measured, pairs)
        model = new()
        names.append(model.execution)
        whole = model.prefill(tokens)[0]
        for width in range(1, 14):
            model.prefill(tokens[:, :-width])
            assert torch.equal(model.extend(tokens[:, -width:])[0, -1], whole)
        logits.append(whole)
    assert names == [
        "compiled kernels, pairs of bfloat16, bfloat16, cpu",
        "compiled kernels, products in float32, bfloat16, cpu",
    ]
    assert 0 < (logits[0] - logits[1]).abs().max() < 0.1
