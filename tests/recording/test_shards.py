"""Shards arrive whole or not at all, and say when they are not what is wanted."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaspec_rl.files import LOCK, write_atomically
from adaspec_rl.recording import shards
from adaspec_rl.recording.recorder import record
from tests.recording.recordings import PROMPTS, toy_recording, toys

TENSORS = {
    "tokens": np.arange(12, dtype=np.int32).reshape(3, 4),
    "survival": np.linspace(0, 1, 5, dtype=np.float32),
    "nothing": np.zeros((0, 4), dtype=np.float32),
}


def written(folder: Path, content: bytes | None = None) -> Path:
    path = folder / "recording" / "texts-0000.safetensors"
    write_atomically(path, content or shards.pack(TENSORS, "abc", "texts"))
    return path


def test_what_is_written_is_read(tmp_path):
    path = written(tmp_path)
    found = shards.read(path, "abc", "texts")
    assert found.keys() == TENSORS.keys()
    for name, values in TENSORS.items():
        assert found[name].dtype == values.dtype and np.array_equal(found[name], values)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_equal_contents_are_equal_bytes():
    backwards = dict(reversed(TENSORS.items()))
    strided = TENSORS | {"tokens": np.asfortranarray(TENSORS["tokens"])}
    packed = {shards.pack(tensors, "abc", "texts") for tensors in (TENSORS, backwards, strided)}
    assert len(packed) == 1


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_shard_is_refused(tmp_path_factory, share):
    content = shards.pack(TENSORS, "abc", "texts")
    path = written(tmp_path_factory.mktemp("cut"), content[: int(share * len(content))] or b"\0")
    with pytest.raises(ValueError, match=rf"{path.name} is damaged .*: delete it and run the same"):
        shards.read(path, "abc", "texts")


def test_an_empty_or_missing_shard_is_refused(tmp_path):
    path = written(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="is damaged"):
        shards.read(path, "abc", "texts")
    path.unlink()
    with pytest.raises(ValueError, match="is damaged"):
        shards.read(path, "abc", "texts")


def test_no_flipped_bit_goes_unseen(tmp_path):
    content = shards.pack(TENSORS, "abc", "texts")
    path = written(tmp_path)
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        try:
            found = shards.read(path, "abc", "texts")
        except ValueError as error:
            assert str(path) in str(error) and "run the same command again" in str(error)
        else:  # e.g. another spelling of the header
            assert all(np.array_equal(found[name], TENSORS[name]) for name in TENSORS), place


@pytest.mark.parametrize(
    ("fingerprint", "kind", "message"),
    [
        ("xyz", "texts", "has fingerprint abc but xyz is expected"),
        ("abc", "drafts of drafter 0", "has kind texts but drafts of drafter 0 is expected"),
    ],
)
def test_a_shard_of_something_else_is_refused(tmp_path, fingerprint, kind, message):
    path = written(tmp_path)
    with pytest.raises(ValueError, match=message):
        shards.read(path, fingerprint, kind)


def test_a_shard_of_another_version_is_refused(tmp_path, monkeypatch):
    path = written(tmp_path)
    message = f"has schema {shards.SCHEMA} but 0 is expected"
    monkeypatch.setattr(shards, "SCHEMA", "0")
    with pytest.raises(ValueError, match=message):
        shards.read(path, "abc", "texts")


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    """The third shard does not fit; with more room, recording goes on after the second."""
    recording, folder, whole = toy_recording(), tmp_path / "full", tmp_path / "whole"
    record(toys(), recording, PROMPTS, ["toy"] * 5, whole)
    fsync, count = os.fsync, 0

    def full(handle: int) -> None:
        nonlocal count
        count += 1
        if count > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(ValueError, match="the disk is full: .*texts-0002.* what was there"):
            record(toys(), recording, PROMPTS, ["toy"] * 5, folder)
    assert sorted(Path(name).name for name in contents(folder)) == [
        "texts-0000.safetensors",
        "texts-0001.safetensors",
    ]
    record(toys(), recording, PROMPTS, ["toy"] * 5, folder)
    assert contents(folder) == contents(whole)


def contents(folder: Path) -> dict[str, bytes]:
    """All files but locks."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != LOCK)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
