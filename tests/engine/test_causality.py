"""Models that do not write token by token are found when they are loaded."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from adaspec_rl.engine.causality import check_causality
from adaspec_rl.engine.load_options import LoadOptions
from adaspec_rl.engine.loading import load_model
from adaspec_rl.engine.transformers_model import TransformersModel
from tests.engine.checkpoints import new_model, random_tokens, reference, relative_error, save

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
BERT = {**SIZES, "intermediate_size": 40, "max_position_embeddings": 64}


@pytest.mark.parametrize("model_type", ["bert", "roberta", "electra", "ernie", "roformer"])
def test_encoders_are_refused(tmp_path: Path, model_type: str) -> None:
    config: dict[str, Any] = {"model_type": model_type, **BERT}
    if model_type in ("electra", "roformer"):
        config["embedding_size"] = 24
    if model_type == "roberta":
        config["pad_token_id"] = 1
    folder = save(new_model(**config), tmp_path)
    with pytest.raises(ValueError, match="depend on the tokens after it, as in an encoder"):
        load_model(folder, name="encoder")


def test_an_encoder_made_to_decode_is_accepted(tmp_path: Path) -> None:
    theirs = new_model("bert", **BERT, is_decoder=True)
    ours, tokens = load_model(save(theirs, tmp_path)), random_tokens(1, 20)
    assert relative_error(ours.extend(tokens), reference(theirs, tokens)) <= 1e-4


@pytest.mark.parametrize(
    ("model_type", "config"),
    [
        ("openai-gpt", {"n_embd": 24, "n_layer": 2, "n_head": 4}),
        ("xlnet", {"d_model": 24, "n_layer": 2, "n_head": 4, "d_inner": 40}),
    ],
)
def test_models_without_a_cache_are_refused(
    tmp_path: Path, model_type: str, config: dict[str, Any]
) -> None:
    folder = save(new_model(model_type, **config), tmp_path)
    with pytest.raises(ValueError, match="no key-value cache"):
        load_model(folder)


def test_a_cache_that_is_not_used_is_found() -> None:
    model = TransformersModel(new_model("gpt_neox", **BERT), "forgetful")
    check_causality(model, torch.float32)
    extend = model.extend

    def forget(tokens: torch.Tensor, keep: int | None = None) -> torch.Tensor:
        model._cache = DynamicCache()
        return extend(tokens, keep)

    model.extend = forget  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="differ between eight tokens read at once and one by one"):
        check_causality(model, torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("model_type", ["gpt_neox", "mixtral"])
def test_rounding_is_no_fault(tmp_path: Path, dtype: torch.dtype, model_type: str) -> None:
    folder = save(new_model(model_type, **BERT, num_key_value_heads=2), tmp_path)
    assert load_model(folder, LoadOptions(dtype=dtype)).context_length == 64


def test_a_context_shorter_than_the_check() -> None:
    theirs = new_model("gpt_neox", **{**BERT, "max_position_embeddings": 5})
    check_causality(TransformersModel(theirs, "short"), torch.float32)


def test_a_forward_that_fails_is_one_sentence() -> None:
    model = TransformersModel(new_model("gpt_neox", **BERT), "broken")
    model._model.lm_head = torch.nn.Linear(5, 61)
    with pytest.raises(ValueError, match="broken cannot be decoded: its forward fails") as error:
        check_causality(model, torch.float32)
    assert "\n" not in str(error.value)
