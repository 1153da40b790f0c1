"""The CPU's decoder, compiled once per machine for its own processor."""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
from pathlib import Path

from adaspec_rl.engine.machine import cache_folder, processor
from adaspec_rl.files import locked, new_file

FLAGS = (
    "-O3",
    "-march=native",
    "-std=c++17",
    "-shared",
    "-fPIC",
    "-fopenmp",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fno-strict-aliasing",
)
KERNELS = ("auto", "compiled", "torch")
SOURCES = sorted(Path(__file__).parent.glob("*.cpp"))
HEADERS = sorted(Path(__file__).parent.glob("*.h"))

logger = logging.getLogger(__name__)


class NoCompiler(RuntimeError):
    """There is no C++ compiler, or it cannot compile the decoder; the message says which."""


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled decoder. The first call on a machine takes about ten seconds.

    The compiler is `$CXX`, else `c++`, `g++` or `clang++`. The result is kept in the user's cache
    folder, keyed by source, compiler and processor.

    Raises:
        NoCompiler: there is no compiler, or it failed.
    """
    import torch  # noqa: F401, its OpenMP comes first, so that both share one pool of threads

    compiler = _compiler()
    path = cache_folder() / "cpu" / f"decoder-{_key(compiler)}.so"
    if not path.is_file():
        with locked(path.parent, waiting=lambda: logger.info("another process is compiling")):
            if not path.is_file():
                _compile(compiler, path)
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise NoCompiler(
            f"the decoder that {compiler} compiled cannot be loaded: {error}"
        ) from None
    return loaded


def loaded() -> ctypes.CDLL | None:
    """The library, if a model of this process already runs on it; compiles nothing."""
    return library() if library.cache_info().currsize else None


def compiled(kernels: str) -> bool:
    """Whether models with this `kernels` setting run on the compiled decoder.

    Args:
        kernels: `auto` uses it if it can be compiled, and logs a warning if not; `compiled`
            requires it; `torch` does without.

    Raises:
        ValueError: an unknown setting, or `compiled` where it cannot be compiled.
    """
    if kernels not in KERNELS:
        raise ValueError(f"kernels={kernels!r} is unknown: expected one of {KERNELS}")
    if kernels == "torch":
        return False
    try:
        library()
    except NoCompiler as error:
        if kernels == "compiled":
            raise ValueError(
                f"engine.kernels=compiled: {error}; install a compiler such as g++, or set "
                "engine.kernels=torch"
            ) from None
        _say_slower(str(error))
        return False
    return True


@functools.cache
def _say_slower(reason: str) -> None:
    logger.warning(
        "models run on torch's own kernels, several times slower, and rounding depends on how many "
        "tokens are read at once: %s",
        reason,
    )


def _compiler() -> str:
    wanted = os.environ.get("CXX")
    for name in [wanted] if wanted else ["c++", "g++", "clang++"]:
        if found := shutil.which(name):
            return found
    raise NoCompiler(
        f"CXX={wanted!r} is no program"
        if wanted
        else "there is no C++ compiler (c++, g++, clang++)"
    )


def _key(compiler: str) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    parts = (
        *(source.read_text() for source in [*SOURCES, *HEADERS]),
        " ".join(FLAGS),
        version,
        platform.machine(),
        processor(flags=True),
    )
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=10).hexdigest()


def _compile(compiler: str, path: Path) -> None:
    logger.info("compiling the decoder for this processor, once; it takes some ten seconds")
    with new_file(path) as fresh:
        done = subprocess.run(
            [compiler, *FLAGS, *map(str, SOURCES), "-o", str(fresh)], capture_output=True, text=True
        )
        if done.returncode:
            lines = done.stderr.splitlines() or ["no message"]
            reason = next((line for line in lines if "error" in line), lines[0])
            raise NoCompiler(f"{compiler} cannot compile the decoder ({reason})")
