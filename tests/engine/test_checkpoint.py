"""Files that are missing or damaged are named in one sentence."""

import json
import os
from pathlib import Path

import pytest
import torch

from adaspec_rl.engine.checkpoint import Checkpoint
from adaspec_rl.engine.load_options import LoadOptions
from adaspec_rl.engine.loading import load_model
from adaspec_rl.tools.tokenizer import save_tokenizer, train_tokenizer
from tests.engine.checkpoints import new_model, save

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 268435456\n"


@pytest.fixture(params=["llama", "gpt_neox"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A small checkpoint, of the lean engine and of transformers'."""
    theirs = new_model(request.param, **SIZES, intermediate_size=24, max_position_embeddings=64)
    return save(theirs, tmp_path / "small", max_shard_size="8KB")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, r"damaged \(.*\): download it again"),
        (b"", "is empty: download it again"),
        (POINTER.encode(), "is a Git LFS pointer.*git lfs pull"),
        (b"<html>not found</html>", "is damaged"),
    ],
)
def test_damaged_weights(folder: Path, content: bytes | None, reason: str) -> None:
    path = sorted(folder.glob("*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:-7] if content is None else content)
    with pytest.raises(ValueError, match=reason) as error:
        load_model(folder)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "is not JSON"),
        ("", "is empty"),
        ("[" * 100000, "nests lists"),
        ("[]", "expected a JSON object"),
        (POINTER, "is a Git LFS pointer"),
    ],
)
def test_damaged_configurations(folder: Path, content: str, reason: str) -> None:
    for name in ("config.json", "model.safetensors.index.json"):
        path = folder / name
        kept = path.read_text()
        path.write_text(content)
        with pytest.raises(ValueError, match=f"{name} .*{reason}"):
            load_model(folder)
        path.write_text(kept)


def test_an_index_without_files(folder: Path) -> None:
    for content in ({}, {"weight_map": []}, {"weight_map": {"a": 1}}):
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match="names no files"):
            load_model(folder)


def test_damaged_and_missing_tokenizers(folder: Path) -> None:
    with pytest.raises(ValueError, match="has no tokenizer: copy tokenizer.json"):
        Checkpoint(folder).tokenizer()
    save_tokenizer(train_tokenizer(["some text " * 50], 300), folder)
    assert Checkpoint(folder).tokenizer().encode("some text")
    path = folder / "tokenizer.json"
    text = path.read_text()
    for content, reason in (
        (text[:-100], "is not JSON"),
        ("", "is empty"),
        (POINTER, "is a Git LFS pointer"),
        (json.dumps({**json.loads(text), "model": {"type": "Novel"}}), "cannot be read"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=reason) as error:
            Checkpoint(folder).tokenizer()
        assert str(folder) in str(error.value) and "\n" not in str(error.value)
    path.write_text(text)


def test_pickled_weights_are_refused_with_how_to_convert_them(folder: Path) -> None:
    for path in folder.glob("model*"):
        os.remove(path)
    torch.save({}, folder / "pytorch_model.bin")
    for engine in ("auto", "transformers"):
        with pytest.raises(ValueError, match="only pytorch_model.bin: convert it.*save_pretrained"):
            load_model(folder, LoadOptions(engine=engine))


def test_a_file_is_no_checkpoint(folder: Path) -> None:
    path = next(folder.glob("*.safetensors"))
    with pytest.raises(ValueError, match=f"is a file: expected a checkpoint folder.*try {folder}"):
        Checkpoint(path)


def test_own_tokenizer_code_is_neither_run_nor_asked_about(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "novel"}))
    (tmp_path / "own.py").write_text("raise SystemExit('run')")
    own = {"auto_map": {"AutoTokenizer": ["own.T", None]}, "tokenizer_class": "T"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(own))
    with pytest.raises(ValueError, match="the tokenizer in .* cannot be read"):
        Checkpoint(tmp_path).tokenizer()
