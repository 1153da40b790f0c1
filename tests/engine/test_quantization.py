"""Weights in 8 and 4 bits."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from adaspec_rl.engine.lean_model import LeanModel
from adaspec_rl.engine.load_options import LoadOptions
from adaspec_rl.engine.loading import load_model
from tests.engine.checkpoints import new_model, random_tokens, relative_error, save, spoil

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "attention_bias": True,
}


def test_without_torchao_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(new_model(**LLAMA), tmp_path)
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    for options in ({"engine": "lean", "kernels": "torch"}, {"engine": "transformers"}):
        with pytest.raises(ValueError, match="needs torchao: pip install torchao"):
            load_model(folder, LoadOptions(quantize="int8", **options))
        with pytest.raises(ValueError, match="needs the lean engine's compiled kernels"):
            load_model(folder, LoadOptions(quantize="int4", **options))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("bits", "error"), [("int8", 0.05), ("int4", 0.5)])
def test_compiled_kernels_are_close(tmp_path: Path, bits: str, error: float, tied: bool) -> None:
    folder = save(new_model(**LLAMA, tie_word_embeddings=tied), tmp_path)
    exact, rough = load_model(folder), load_model(folder, LoadOptions(quantize=bits))
    tokens = random_tokens(1, 20)
    assert 0 < relative_error(rough.extend(tokens), exact.extend(tokens)) < error
    assert bits in rough.execution


@pytest.mark.parametrize("bits", ["int8", "int4"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_numbers_are_not_rounded_away(tmp_path: Path, bits: str, bad: float) -> None:
    model = new_model(**LLAMA)
    spoil(model, 7, bad)
    rough = load_model(save(model, tmp_path), LoadOptions(quantize=bits))
    with pytest.raises(FloatingPointError, match="position 2:"):
        rough.extend(torch.tensor([[1, 2, 7, 3]]))


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="needs torchao")
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("engine", ["lean", "transformers"])
def test_int8_is_close(tmp_path: Path, engine: str, tied: bool) -> None:
    folder = save(new_model(**LLAMA, tie_word_embeddings=tied), tmp_path)
    exact = load_model(folder, LoadOptions(engine=engine))
    rough = load_model(folder, LoadOptions(engine=engine, quantize="int8", kernels="torch"))
    tokens = random_tokens(1, 20)
    logits = exact.extend(tokens)
    assert 0 < relative_error(rough.extend(tokens), logits) < 0.1
    rough.rollback(12)
    assert 0 < relative_error(rough.extend(tokens[:, 12:]), logits[:, 12:]) < 0.1
    if isinstance(rough, LeanModel):
        assert "int8" in str(rough.weights.layers[0].qkv).lower()
