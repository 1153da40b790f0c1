"""Files arrive whole or not at all, whoever else writes them; locks end with their process."""

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from adaspec_rl import files
from adaspec_rl.files import locked, new_file, new_folder, remove_unfinished, write_atomically


def failing(monkeypatch, number: int) -> None:
    def fsync(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)


def test_text_and_bytes_are_written_with_their_folders_and_usual_rights(tmp_path):
    path = tmp_path / "deep" / "down" / "file"
    write_atomically(path, "ü\n")
    assert path.read_bytes() == "ü\n".encode()
    write_atomically(path, b"\x00\r\n")
    assert path.read_bytes() == b"\x00\r\n"
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_and_keeps_what_was_there(tmp_path, monkeypatch, number):
    path = tmp_path / "file"
    write_atomically(path, "old")
    failing(monkeypatch, number)
    with pytest.raises(ValueError, match=f"the disk is full: {path} cannot be written; what was"):
        write_atomically(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_other_failures_are_named_and_not_called_a_full_disk(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        failing(patched, errno.EIO)
        with pytest.raises(ValueError, match="file cannot be written: Input/output error"):
            write_atomically(tmp_path / "file", "new")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"below cannot be written: .*/file\)"):
        write_atomically(tmp_path / "file" / "below", "new")


def test_an_interruption_leaves_nothing_half_written(tmp_path):
    for new in (new_file, new_folder):
        with pytest.raises(KeyboardInterrupt), new(tmp_path / "made") as fresh:
            (fresh / "part" if fresh.is_dir() else fresh).write_text("half")
            raise KeyboardInterrupt
        assert not list(tmp_path.iterdir())


def test_many_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "file"
    contents = [str(number) * 100_000 for number in range(8)]
    threads = [threading.Thread(target=write_atomically, args=(path, c)) for c in contents * 8]
    seen = []
    for thread in threads:
        thread.start()
        if path.exists():
            seen.append(path.read_text())
    for thread in threads:
        thread.join()
    assert set(seen) | {path.read_text()} <= set(contents)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_replaced_as_a_whole(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(files, "_exchanged", lambda one, other: False)
    path = tmp_path / "folder"
    for content in ("one", "two"):
        with new_folder(path) as fresh:
            (fresh / content).write_text(content)
        assert [file.name for file in path.iterdir()] == [content]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges folders in one step")
def test_a_replaced_folder_is_never_missing(tmp_path):
    path, missing, done = tmp_path / "folder", [], threading.Event()

    def look() -> None:
        while not done.is_set():
            try:
                os.stat(path)
            except FileNotFoundError:
                missing.append(path)

    with new_folder(path) as fresh:
        (fresh / "file").touch()
    watcher = threading.Thread(target=look)
    watcher.start()
    for _ in range(200):
        with new_folder(path) as fresh:
            (fresh / "file").touch()
    done.set()
    watcher.join()
    assert not missing


HOLDER = """
import sys, time
from pathlib import Path
from adaspec_rl.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_ends_with_a_killed_process(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match="another process is at work in"), locked(tmp_path):
        pass
    waited = []

    def waiting() -> None:
        waited.append(True)
        holder.send_signal(signal.SIGKILL)

    with locked(tmp_path, waiting):
        assert waited == [True]
    holder.wait()
    with locked(tmp_path, waiting):
        pass
    assert waited == [True]


def test_a_read_only_folder_needs_no_lock(tmp_path, monkeypatch):
    def refused(lock, timeout=None):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files.FileLock, "acquire", refused)
    with locked(tmp_path):
        pass


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    (tmp_path / "mine.partial").touch()
    (tmp_path / ".hidden").touch()
    files._unfinished(tmp_path / "file").touch()
    (files._unfinished(tmp_path / "folder") / "deep").mkdir(parents=True)
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "mine.partial"]
