"""The target's own answers between the turns of a conversation, made once and kept."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from adaspec_rl.console import part_of
from adaspec_rl.decoding.sampling import SAMPLER, Sampling
from adaspec_rl.engine.language_model import LanguageModel
from adaspec_rl.files import write_atomically
from adaspec_rl.recording import shards
from adaspec_rl.recording.texts import generate_texts, text_rules

BATCH = 16  # answers side by side
KIND = "answer"


@dataclass(frozen=True, slots=True)
class Answering:
    """The settings that answers depend on; with other settings, answers are made anew."""

    pair: str  # fingerprint
    sampling: Sampling
    eos_ids: tuple[int, ...]
    max_new_tokens: int
    seed: int

    def fingerprint(self) -> str:
        """A short hash of these settings."""
        settings = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(f"{shards.SCHEMA} {SAMPLER} {settings}".encode()).hexdigest()[:16]


def answers(
    target: LanguageModel,
    answering: Answering,
    questions: Sequence[Sequence[int]],
    cache: Path,
    *,
    progress: Callable[[float, float], None] = lambda done, total: None,
) -> list[list[int]]:
    """The target's answer to each of `questions`, in token ids, by plain decoding.

    An answer depends only on its question, the settings and the seed. Each is kept in a file in
    `cache`, where later calls find it.

    Raises:
        ValueError: a file is damaged.
    """
    fingerprint = answering.fingerprint()
    digests = [hashlib.sha256(json.dumps(list(ids)).encode()).digest() for ids in questions]
    folder = cache / f"answers-{fingerprint}"
    paths = [folder / f"{digest.hex()[:32]}.safetensors" for digest in digests]
    missing = [n for n, path in enumerate(paths) if not path.exists()]
    missing.sort(key=lambda n: len(questions[n]))  # little padding in a batch
    total = len(questions)
    progress(total - len(missing), total)
    for first in range(0, len(missing), BATCH):
        part = missing[first : first + BATCH]
        before = total - len(missing) + first
        seeds = [answering.seed + int.from_bytes(digests[n][:4], "big") for n in part]
        made = generate_texts(
            target,
            [questions[n] for n in part],
            seeds,
            text_rules(target, seeds, "coupled", answering.sampling),
            eos_ids=answering.eos_ids,
            max_new_tokens=answering.max_new_tokens,
            progress=part_of(lambda done: progress(done, total), before, len(part)),
        )
        for n, text in zip(part, made):
            write_atomically(paths[n], shards.pack({"tokens": text.tokens}, fingerprint, KIND))
        progress(before + len(part), total)
    return [_kept(path, fingerprint) for path in paths]


def _kept(path: Path, fingerprint: str) -> list[int]:
    tokens: np.ndarray = shards.read(path, fingerprint, KIND)["tokens"]
    return tokens.tolist()
