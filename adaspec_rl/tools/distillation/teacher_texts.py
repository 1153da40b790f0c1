"""Training data of drafters: the target's texts, with its distribution and state at each token.

They lie in a folder of safetensors shards. A shard is written as a whole or not at all, and the
first shards can be used before the others are written.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adaspec_rl.files import write_atomically
from adaspec_rl.recording import shards

CHOICES = 64  # how many of the target's likeliest tokens are stored at each position
_KIND = "teacher"


@dataclass(frozen=True, slots=True)
class TeacherText:
    """A prompt and the target's answer, `L` tokens of which `G` are the answer."""

    tokens: np.ndarray  # [L] int32; the answer ends with an end-of-text token, or is cut
    prompt_length: int  # L - G
    temperature: float  # of the answer's sampling
    self_written: bool  # whether the target wrote the prompt, too
    choice_ids: np.ndarray  # [G, CHOICES] int32, the likeliest tokens at each answer token
    choice_log_probs: np.ndarray  # [G, CHOICES] float16, at temperature 1, descending
    hidden: np.ndarray  # [L - 1, hidden] uint16: bfloat16 bits, what the target's head read

    @property
    def prompt(self) -> np.ndarray:
        return self.tokens[: self.prompt_length]

    @property
    def share(self) -> float:
        """A hash of the prompt, from 0 to below 1, which decides whether it is held out."""
        prompt = self.prompt.astype(np.int32).tobytes()
        return int.from_bytes(hashlib.sha256(prompt).digest()[:4], "big") / 2**32


@dataclass(frozen=True, slots=True)
class TeacherTexts:
    """The texts in a folder; `fingerprint` covers all that they depend on, except their number."""

    folder: Path
    fingerprint: str

    def path(self, number: int) -> Path:
        """The file of a shard."""
        return self.folder / f"{number:05}.safetensors"

    @property
    def shards(self) -> int:
        """The number of shards from the first up to the first gap."""
        count = 0
        while self.path(count).exists():
            count += 1
        return count

    def write(self, number: int, texts: Sequence[TeacherText]) -> None:
        """Store one shard."""
        arrays = {
            "tokens": np.concatenate([text.tokens for text in texts]),
            "choice_ids": np.concatenate([text.choice_ids for text in texts]),
            "choice_log_probs": np.concatenate([text.choice_log_probs for text in texts]),
            "hidden": np.concatenate([text.hidden for text in texts]),
            "lengths": np.array([len(text.tokens) for text in texts], dtype=np.int32),
            "prompt_lengths": np.array([text.prompt_length for text in texts], dtype=np.int32),
            "temperatures": np.array([text.temperature for text in texts], dtype=np.float32),
            "self_written": np.array([text.self_written for text in texts]),
        }
        write_atomically(self.path(number), shards.pack(arrays, self.fingerprint, _KIND))

    def read(self, number: int) -> list[TeacherText]:
        """One shard's texts.

        Raises:
            ValueError: the shard is damaged, or belongs to other texts.
        """
        found = shards.read(self.path(number), self.fingerprint, _KIND)
        lengths, prompts = found["lengths"].astype(int), found["prompt_lengths"].astype(int)
        tokens = np.split(found["tokens"], lengths.cumsum()[:-1])
        answers = (lengths - prompts).cumsum()[:-1]
        ids, log_probs = (
            np.split(found[name], answers) for name in ("choice_ids", "choice_log_probs")
        )
        hidden = np.split(found["hidden"], (lengths - 1).cumsum()[:-1])
        rows = zip(tokens, prompts, found["temperatures"], found["self_written"])
        return [
            TeacherText(
                text, int(prompt), float(temperature), bool(own), ids[n], log_probs[n], hidden[n]
            )
            for n, (text, prompt, temperature, own) in enumerate(rows)
        ]

    def read_all(self, count: int | None = None) -> list[TeacherText]:
        """The texts of the first `count` shards, or of all shards."""
        numbers = range(self.shards if count is None else count)
        return [text for number in numbers for text in self.read(number)]
