"""Files and folders written as a whole or not at all, and locks that end with their process."""

import ctypes
import errno
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = ".lock"  # the file in a folder that processes lock
_UNFINISHED = ".partial"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_HERE, _EXCHANGE = -100, 2  # Linux's AT_FDCWD and RENAME_EXCHANGE


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file, text as UTF-8, and the folders above it.

    Raises:
        ValueError: the file cannot be written; says which one and why.
    """
    data = content.encode() if isinstance(content, str) else content
    with new_file(path) as fresh:
        fresh.write_bytes(data)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A free name beside `path` to write to; the finished file then replaces `path`.

    If anything fails, `path` stays as it was and nothing else is left behind.

    Raises:
        ValueError: the file cannot be written; says which one and why.
    """
    fresh = _unfinished(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield fresh
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except OSError as error:
        raise ValueError(_why(path, error)) from error
    finally:
        with suppress(OSError):  # moved, or never made
            fresh.unlink()


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` to write to; the finished folder then replaces `path`.

    If anything fails, `path` stays as it was and nothing else is left behind. If the operating
    system can exchange two folders (Linux can), there is always a whole folder at `path`.

    Raises:
        ValueError: the folder cannot be written; says which one and why.
    """
    fresh = _unfinished(path)
    try:
        fresh.mkdir(parents=True)
        yield fresh
        for file in fresh.rglob("*"):
            if file.is_file():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
        _put(fresh, path)
    except OSError as error:
        raise ValueError(_why(path, error)) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def locked(folder: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a folder's lock, which no other process gets until this one releases it or ends.

    A read-only folder needs no lock and gets none.

    Args:
        folder: created if it does not exist.
        waiting: called once if another process holds the lock, before this one waits. None: it
            does not wait.

    Raises:
        ValueError: another process holds the lock and this one does not wait, or the folder cannot
            be written to.
    """
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        if waiting is None:
            raise ValueError(
                f"another process is at work in {folder}: wait until it has ended, or choose "
                "another folder"
            ) from None
        waiting()
        lock.acquire()
    except OSError as error:
        if error.errno not in _READ_ONLY or not folder.is_dir():
            raise ValueError(_why(folder, error)) from error
    try:
        yield
    finally:
        lock.release()


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left half written in a folder whose lock is held."""
    for path in folder.glob(f".*{_UNFINISHED}"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{_UNFINISHED}")


def _why(path: Path, error: OSError) -> str:
    if error.errno in _FULL:
        return (
            f"the disk is full: {path} cannot be written; what was there before is kept, so free "
            "some space and run the same command again"
        )
    at = f" ({error.filename})" if error.filename else ""
    return f"{path} cannot be written: {error.strerror or error}{at}"


def _put(fresh: Path, path: Path) -> None:
    """Move a folder to `path`, replacing the folder that may be there."""
    if not path.exists():
        os.replace(fresh, path)
    elif not _exchanged(fresh, path):
        old = _unfinished(path)
        os.replace(path, old)
        os.replace(fresh, path)
        shutil.rmtree(old, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False if the system or its disk cannot."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    names = os.fsencode(one), os.fsencode(other)
    return rename is not None and rename(_HERE, names[0], _HERE, names[1], _EXCHANGE) == 0
