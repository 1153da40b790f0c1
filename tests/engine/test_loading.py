"""Checkpoints on disk and on the hub: what is loaded, and what is said when it cannot be."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import finalize

import huggingface_hub.constants
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from hypothesis import HealthCheck, given, settings
from torch.utils._python_dispatch import TorchDispatchMode

from adaspec_rl.engine import checkpoint as checkpoint_module
from adaspec_rl.engine.architecture import Architecture
from adaspec_rl.engine.checkpoint import Checkpoint
from adaspec_rl.engine.lean_model import LeanModel
from adaspec_rl.engine.loading import load_model
from adaspec_rl.engine.transformers_model import TransformersModel
from adaspec_rl.engine.weights import load_weights, tensors_in
from tests.engine.checkpoints import (
    lean_configs,
    new_model,
    random_tokens,
    reference,
    relative_error,
    save,
)

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    return save(new_model(**LLAMA), tmp_path / "small")


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(config=lean_configs())
def test_checkpoints_of_every_family(
    tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]
) -> None:
    theirs = new_model(**config)
    ours = load_model(save(theirs, tmp_path_factory.mktemp("model")))
    assert isinstance(ours, LeanModel)
    tokens = random_tokens(1, 50)
    assert relative_error(ours.extend(tokens), reference(theirs, tokens)) <= 1e-4


def test_sharded_checkpoint(tmp_path: Path) -> None:
    theirs = new_model(**LLAMA)
    folder = save(theirs, tmp_path, max_shard_size="8KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    tokens = random_tokens(1, 30)
    for engine in ("lean", "transformers"):
        ours = load_model(folder, engine=engine)
        assert relative_error(ours.extend(tokens), reference(theirs, tokens)) <= 1e-4


def test_old_spelling_of_the_configuration(folder: Path) -> None:
    """`rope_theta`, `rope_scaling`, `torch_dtype` and generation settings in config.json."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["rope_parameters"]
    scaling = {"type": "linear", "factor": 2.0}
    config |= {"rope_theta": 500.0, "rope_scaling": scaling, "torch_dtype": "float16"}
    config |= {"temperature": 0.7, "do_sample": True, "_name_or_path": "x"}
    path.write_text(json.dumps(config))
    ours, theirs = load_model(folder), load_model(folder, engine="transformers")
    assert isinstance(ours, LeanModel) and ours.architecture.rope.rope_theta == 500.0
    tokens = random_tokens(1, 30)
    assert relative_error(ours.extend(tokens), theirs.extend(tokens)) <= 1e-4


LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 2.0}
LONGROPE |= {"short_factor": [1.0] * 3, "long_factor": [2.0] * 3}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("hidden_act='gelu'", {"hidden_act": "gelu"}),
        ("rope_type='longrope'", {"rope_parameters": LONGROPE}),
        ("rope_parameters.zeta", {"rope_parameters": {**LINEAR, "zeta": 2}}),
        ("partial_rotary_factor", {"rope_parameters": {**LINEAR, "partial_rotary_factor": 0.5}}),
        ("attention_multiplier", {"attention_multiplier": 0.5}),
        ("sliding_window=4", {"sliding_window": 4}),
        ("quantization_config", {"quantization_config": {"quant_method": "awq"}}),
        ("attention_bias", {"model_type": "mistral", "attention_bias": True}),
    ],
)
def test_unsupported_configurations_are_refused_by_name(
    folder: Path, name: str, changes: dict[str, Any]
) -> None:
    load_model(folder)
    edit_config(folder, **changes)
    with pytest.raises(ValueError, match=name) as error:
        load_model(folder)
    assert "engine=transformers" in str(error.value)


def test_unsupported_layers_are_refused_by_name() -> None:
    config = new_model(**{**LLAMA, "model_type": "qwen2"}).config.to_dict()
    Architecture.from_config(config)
    config["layer_types"] = ["full_attention", "linear_attention"]
    with pytest.raises(ValueError, match="linear_attention"):
        Architecture.from_config(config)
    with pytest.raises(ValueError, match="model_type='gpt2'"):
        Architecture.from_config({"model_type": "gpt2"})


@pytest.mark.parametrize("model_type", ["gpt2", "gpt_neox"])
def test_other_architectures_run_through_transformers(tmp_path: Path, model_type: str) -> None:
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    theirs = new_model(model_type, **sizes, max_position_embeddings=64)
    ours = load_model(save(theirs, tmp_path), name="other")
    assert isinstance(ours, TransformersModel)
    assert (ours.name, ours.context_length, ours.vocab_size) == ("other", 64, 61)
    with pytest.raises(ValueError, match=f"model_type='{model_type}'"):
        load_model(tmp_path, engine="lean")


def test_missing_and_surplus_tensors_are_named() -> None:
    theirs = new_model(**LLAMA)
    config, state = theirs.config.to_dict(), dict(theirs.state_dict())
    norm = state.pop("model.layers.1.post_attention_layernorm.weight")
    with pytest.raises(ValueError, match=r"lacks 1 tensors.*layers\.1\.post_attention_layernorm"):
        LeanModel.from_tensors(config, state.items(), "small")
    state["model.layers.1.post_attention_layernorm.weight"] = norm[:-1]
    with pytest.raises(ValueError, match=r"post_attention_layernorm.*\[23\]: expected \[24\]"):
        LeanModel.from_tensors(config, state.items(), "small")
    state["model.layers.1.post_attention_layernorm.weight"] = norm
    state["model.layers.0.self_attn.sinks"] = norm
    with pytest.raises(ValueError, match="self_attn.sinks"):
        LeanModel.from_tensors(config, state.items(), "small")


def test_missing_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no folder .*nowhere"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has no config.json"):
        load_model(tmp_path)


def test_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="lacks the weights file model.safetensors"):
        load_model(folder)


class _Response:
    """The little that hub errors read of a response."""

    headers: dict[str, str] = {}
    request = None
    status_code = 403


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [(GatedRepoError, "set HF_TOKEN"), (RepositoryNotFoundError, "check the id")],
)
def test_hub_refusals_say_what_to_set(
    monkeypatch: pytest.MonkeyPatch, kind: type[HfHubHTTPError], remedy: str
) -> None:
    def refuse(*_: object) -> str:
        raise kind("403 Client Error.\n\nAccess to model x/y is restricted.", response=_Response())  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoint_module, "hf_hub_download", refuse)
    with pytest.raises(ValueError, match=remedy) as error:
        load_model("x/y")
    assert "Access to model x/y is restricted" in str(error.value)
    assert "\n" not in str(error.value)


def test_offline_hub_says_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE") as error:
        load_model("x/never-downloaded")
    assert "\n" not in str(error.value)


def test_unknown_options_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="engine='vllm' is unknown"):
        load_model(folder, engine="vllm")
    with pytest.raises(ValueError, match="quantize='int3' is unknown"):
        load_model(folder, quantize="int3")
    with pytest.raises(ValueError, match="device_map"):
        load_model(folder, engine="lean", device_map="auto")


class _Allocations(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors((out, args)):
            storage = tensor.untyped_storage()
            if id(storage) not in self._known:
                self._count(storage)
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)

        def release() -> None:
            self._known.discard(key)
            self.now -= size

        finalize(storage, release)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)


def test_loading_never_holds_two_copies(tmp_path: Path) -> None:
    config = {**LLAMA, "num_hidden_layers": 24, "tie_word_embeddings": False}
    theirs = new_model(**config)
    files = Checkpoint(save(theirs, tmp_path, max_shard_size="40KB")).weight_files()
    total = sum(parameter.nbytes for parameter in theirs.parameters())
    architecture = Architecture.from_config(theirs.config.to_dict())
    with _Allocations() as allocations:
        weights = load_weights(
            architecture, tensors_in(files), dtype=torch.float32, device=torch.device("cpu")
        )
    assert len(weights.layers) == 24
    assert total <= allocations.peak <= 1.1 * total
