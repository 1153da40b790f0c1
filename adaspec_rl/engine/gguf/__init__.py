"""GGUF files, llama.cpp's format, as checkpoints."""

from adaspec_rl.engine.gguf.conversion import converted

__all__ = ["converted"]
