"""The texts that a drafter learns from: the target's own continuations, and windows of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from adaspec_rl.console import progress, standard_output
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.verification import new_verification
from adaspec_rl.files import write_atomically
from adaspec_rl.pairs.distillation_prompts import digest
from adaspec_rl.pairs.pair import Pair
from adaspec_rl.replay import shards
from adaspec_rl.replay.texts import generate_texts

SHARD = 32  # texts in a file; they are generated side by side


@dataclass(frozen=True, slots=True)
class Continuations:
    """Every prompt with the target's continuation, in shards that are kept in a folder.

    About half of the texts are greedy, the rest are sampled at temperature 1: a drafter meets both.
    """

    prompts: Sequence[Sequence[int]]
    target: str  # its fingerprint
    max_new_tokens: int
    seed: int
    root: Path

    @property
    def fingerprint(self) -> str:
        """A short hash of all that the texts depend on."""
        prompts = [list(ids) for ids in self.prompts]
        return digest([self.target, prompts, self.max_new_tokens, self.seed, SHARD])

    @property
    def folder(self) -> Path:
        return self.root / self.fingerprint

    @property
    def temperatures(self) -> list[float]:
        """0 or 1 for each text, at random, so that every domain has both."""
        drawn = np.random.default_rng(self.seed).integers(2, size=len(self.prompts))
        return drawn.astype(float).tolist()

    @property
    def complete(self) -> bool:
        """Whether nothing is left to write."""
        folder = self.folder
        return all(_shard(folder, start).exists() for start in self._starts)

    def write(self, pair: Pair) -> None:
        """Let the target write all shards that are missing."""
        fingerprint, folder = self.fingerprint, self.folder
        missing = [start for start in self._starts if not _shard(folder, start).exists()]
        with progress(standard_output(), "the target's texts") as update:
            for done, start in enumerate(missing, 1):
                texts = self._continue(pair, start)
                arrays = {
                    "tokens": np.concatenate(texts).astype(np.int32),
                    "lengths": np.array([len(text) for text in texts], dtype=np.int32),
                }
                packed = shards.pack(arrays, fingerprint, "texts")
                write_atomically(_shard(folder, start), packed)
                update(done, len(missing))

    def read(self) -> list[np.ndarray]:
        """Each text's token ids, prompt included.

        Raises:
            ValueError: a shard is damaged.
        """
        fingerprint, folder, texts = self.fingerprint, self.folder, []
        for start in self._starts:
            arrays = shards.read(_shard(folder, start), fingerprint, "texts")
            texts += np.split(arrays["tokens"], arrays["lengths"].cumsum()[:-1])
        return texts

    @property
    def _starts(self) -> range:
        return range(0, len(self.prompts), SHARD)

    def _continue(self, pair: Pair, start: int) -> list[np.ndarray]:
        rows = self.prompts[start : start + SHARD]
        seeds = [self.seed + start + row for row in range(len(rows))]
        temperatures = self.temperatures[start : start + SHARD]
        target = pair.target
        rules = [
            new_verification("coupled", Sampling(value), seed, target.vocab_size, target.device)
            for value, seed in zip(temperatures, seeds)
        ]
        made = generate_texts(
            target,
            rows,
            seeds,
            rules,
            eos_ids=pair.eos_ids,
            max_new_tokens=self.max_new_tokens,
        )
        return [np.concatenate([text.prompt, text.tokens]) for text in made]


class TextWindows:
    """Texts as one long token array, sampled in windows: a pure function of (seed, step)."""

    def __init__(self, texts: Sequence[Sequence[int] | np.ndarray], end: int | None) -> None:
        """`end` closes a text that does not end with it (None: the tokenizer has no such token)."""
        parts = []
        for text in texts:
            parts.append(np.asarray(text, dtype=np.int64))
            if end is not None and len(text) and text[-1] != end:
                parts.append(np.array([end]))
        self.tokens = np.concatenate(parts)

    def batch(self, seed: int, step: int, rows: int, length: int) -> torch.Tensor:
        """Windows of `length` + 1 tokens, `[rows, length + 1]` int64.

        Raises:
            ValueError: the texts are shorter than one window.
        """
        room = len(self.tokens) - length
        if room < 1:
            raise ValueError(
                f"the texts hold {len(self.tokens)} tokens, fewer than a window of "
                f"sequence_length={length} and the token after it: add texts, or shorten it"
            )
        starts = np.random.default_rng((seed, step)).integers(0, room, size=rows)
        windows = [self.tokens[start : start + length + 1] for start in starts]
        return torch.from_numpy(np.stack(windows))


def _shard(folder: Path, start: int) -> Path:
    return folder / f"{start:08}.safetensors"
