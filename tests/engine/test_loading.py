"""Checkpoints on disk and on the hub: what is loaded, and what is said when it cannot be."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import finalize

import huggingface_hub.constants
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from hypothesis import HealthCheck, given, settings
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from adaspec_rl.engine import checkpoint as checkpoint_module
from adaspec_rl.engine import loading
from adaspec_rl.engine.architecture import Architecture
from adaspec_rl.engine.checkpoint import Checkpoint
from adaspec_rl.engine.lean_model import LeanModel
from adaspec_rl.engine.load_options import LoadOptions
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
        ours = load_model(folder, LoadOptions(engine=engine))
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
    ours, theirs = load_model(folder), load_model(folder, LoadOptions(engine="transformers"))
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
    ],
)
def test_auto_falls_back_where_the_lean_engine_refuses(
    folder: Path, name: str, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    edit_config(folder, **changes)
    with pytest.raises(ValueError, match=f"{name}.*engine=transformers"):
        load_model(folder, LoadOptions(engine="lean"))
    ours, theirs = load_model(folder), load_model(folder, LoadOptions(engine="transformers"))
    assert isinstance(ours, TransformersModel)
    [said] = [r.message for r in caplog.records if r.name.startswith("adaspec_rl")]
    assert "through transformers' own forward" in said and name in said
    tokens = random_tokens(1, 20)
    assert torch.equal(ours.extend(tokens), theirs.extend(tokens))


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_parameters": {**LINEAR, "partial_rotary_factor": 0.5}},
        {"partial_rotary_factor": 0.5},
    ],
)
def test_partial_rotations_are_refused_by_name(folder: Path, changes: dict[str, Any]) -> None:
    edit_config(folder, **changes)
    with pytest.raises(ValueError, match="partial_rotary_factor=0.5"):
        load_model(folder, LoadOptions(engine="lean"))


UNKNOWN: list[tuple[str, dict[str, Any]]] = [
    ("attention_multiplier", {"attention_multiplier": 0.5}),
    ("rope_parameters.zeta", {"rope_parameters": {**LINEAR, "zeta": 2}}),
    ("sliding_window", {"sliding_window": 4}),
    ("attention_bias", {"model_type": "mistral", "attention_bias": True}),
    ("auto_map, logit_scale", {"logit_scale": 2.0, "auto_map": {"AutoModel": "modeling.X"}}),
]


@pytest.mark.parametrize(("names", "changes"), UNKNOWN)
def test_unknown_keys_are_named_once_and_checked(
    folder: Path, names: str, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    edit_config(folder, **changes)
    ours = load_model(folder)
    assert isinstance(ours, LeanModel)
    [said] = [r.message for r in caplog.records if r.name.startswith("adaspec_rl")]
    assert names in said
    theirs, tokens = load_model(folder, LoadOptions(engine="transformers")), random_tokens(1, 20)
    assert relative_error(ours.extend(tokens), theirs.extend(tokens)) <= 1e-4


def test_unknown_keys_that_change_the_forward_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if transformers read `logit_scale`."""
    edit_config(folder, logit_scale=1.001)
    forward = torch.nn.Linear.forward

    def scaled(layer: torch.nn.Linear, hidden: torch.Tensor) -> torch.Tensor:
        return forward(layer, hidden) * (1.001 if layer.out_features == 61 else 1.0)

    monkeypatch.setattr(torch.nn.Linear, "forward", scaled)
    with pytest.raises(ValueError, match="logit_scale.* first 2 layers differ .* by 0.001 of"):
        load_model(folder, LoadOptions(engine="lean"))
    assert isinstance(load_model(folder), TransformersModel)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_check_of_unknown_keys_reads_all_kinds_of_weights(
    tmp_path: Path, family: str, tied: bool
) -> None:
    config = {**LLAMA, "num_hidden_layers": 3, "attention_bias": True, "vocab_size": 300}
    config |= {"model_type": family, "tie_word_embeddings": tied, "pad_token_id": 290}
    folder = save(new_model(**config), tmp_path, max_shard_size="20KB")
    edit_config(folder, logit_scale=2.0)
    assert isinstance(load_model(folder, LoadOptions(engine="lean")), LeanModel)


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
        load_model(tmp_path, LoadOptions(engine="lean"))


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


def test_incomplete_checkpoints_are_refused_by_transformers_engine(tmp_path: Path) -> None:
    """Transformers would go on with random numbers."""
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    theirs = new_model("gpt_neox", **sizes, intermediate_size=40, max_position_embeddings=64)
    folder = save(theirs, tmp_path)
    state = load_file(folder / "model.safetensors")
    norm = state.pop("gpt_neox.layers.1.input_layernorm.weight")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 tensors, first gpt_neox.layers.1.input_layern"):
        load_model(folder)
    state["gpt_neox.layers.1.input_layernorm.weight"] = norm[:-1].clone()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"input_layernorm.weight .*\[23\]: expected \[24\]"):
        load_model(folder)


@pytest.mark.parametrize("engine", ["lean", "transformers"])
def test_a_tied_checkpoint_with_another_head_keeps_both(tmp_path: Path, engine: str) -> None:
    """An adapter merged with saved modules."""
    theirs = new_model(**LLAMA, tie_word_embeddings=False)
    folder = save(theirs, tmp_path)
    edit_config(folder, tie_word_embeddings=True)
    ours, tokens = load_model(folder, LoadOptions(engine=engine)), random_tokens(1, 20)
    assert relative_error(ours.extend(tokens), reference(theirs, tokens)) <= 1e-4


def test_a_tied_checkpoint_may_hold_its_matrix_twice_or_as_the_head() -> None:
    theirs = new_model(**LLAMA, tie_word_embeddings=True)
    config, state = theirs.config.to_dict(), dict(theirs.state_dict())
    tokens = random_tokens(1, 20)
    for absent in ("", "lm_head.weight", "model.embed_tokens.weight"):
        held = [(name, tensor) for name, tensor in reversed(state.items()) if name != absent]
        ours = LeanModel.from_tensors(config, held, "small")
        assert ours.weights.head is ours.weights.embedding
        assert relative_error(ours.extend(tokens), reference(theirs, tokens)) <= 1e-4
    state["lm_head.weight"] = torch.zeros(60, 24)
    with pytest.raises(
        ValueError, match=r"lm_head.weight has shape \[60, 24\]: expected \[61, 24\]"
    ):
        LeanModel.from_tensors(config, state.items(), "small")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "t5"}, "no causal language model"),
        ({"model_type": "novel"}, "does not know this type"),
        ({"model_type": "novel", "auto_map": {"AutoModel": "m.X"}}, "own Python code"),
        ({"model_type": "qwen2_5_vl", "vision_config": {}}, "multimodal model"),
        ({"architectures": ["X"]}, "model_type=None"),
    ],
)
def test_other_kinds_of_models_are_refused_briefly(
    tmp_path: Path, config: dict[str, Any], reason: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    for engine in ("auto", "transformers"):
        with pytest.raises(ValueError, match=reason) as error:
            load_model(tmp_path, LoadOptions(engine=engine))
        assert len(str(error.value)) < 200


def test_code_of_a_checkpoint_is_neither_run_nor_asked_about(tmp_path: Path) -> None:
    """The known type is used, although the checkpoint brings a class of its own."""
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    theirs = new_model("gpt_neox", **sizes, intermediate_size=40, max_position_embeddings=64)
    folder = save(theirs, tmp_path)
    (folder / "own.py").write_text("raise SystemExit('run')")
    edit_config(folder, auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"})
    ours, tokens = load_model(folder), random_tokens(1, 20)
    assert relative_error(ours.extend(tokens), reference(theirs, tokens)) <= 1e-4


ODD = (None, -1, 0, 2.5, True, "x", [], [1], {"a": 1}, {"rope_type": [1]})


@pytest.mark.parametrize(
    "key",
    [
        "architectures",
        "attention_bias",
        "head_dim",
        "hidden_size",
        "intermediate_size",
        "max_position_embeddings",
        "num_hidden_layers",
        "num_key_value_heads",
        "rope_scaling",
        "text_config",
        "vocab_size",
    ],
)
def test_odd_values_are_loaded_or_refused_in_one_sentence(folder: Path, key: str) -> None:
    for value in ODD:
        edit_config(folder, **{key: value})
        try:
            load_model(folder, LoadOptions(engine="lean"))
        except ValueError as error:
            assert len(str(error)) < 400 and "\n" not in str(error)


def test_a_quantised_checkpoint_may_be_tried_in_transformers(folder: Path) -> None:
    edit_config(folder, quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 8})
    with pytest.raises(ValueError, match=r"^the checkpoint is quantised \(gptq\)"):
        load_model(folder)
    with pytest.raises(ValueError, match="transformers cannot load .*unquantised") as error:
        load_model(folder, LoadOptions(engine="transformers"))
    assert len(str(error.value)) < 600


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
        load_model(folder, LoadOptions(engine="vllm"))
    with pytest.raises(ValueError, match="quantize='int3' is unknown"):
        load_model(folder, LoadOptions(quantize="int3"))
    with pytest.raises(ValueError, match="device_map"):
        load_model(folder, LoadOptions(engine="lean", device_map="auto"))


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


def test_large_files_show_how_far_they_are_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[float, float | None]] = []

    @contextmanager
    def shown(console: object, what: str) -> Iterator[Any]:
        assert what == "loading small"
        yield lambda done, total: told.append((done, total))

    monkeypatch.setattr(loading, "progress", shown)
    load_model(folder)
    assert not told
    monkeypatch.setattr(loading, "LARGE", 0)
    load_model(folder)
    done = [share for share, _ in told]
    (total,) = {total for _, total in told}
    assert total == (folder / "model.safetensors").stat().st_size
    assert done == sorted(done) and 0.5 * total < done[-1] <= total
