"""Record a pair's texts and drafts, shard by shard, once.

A recording lives in a folder named after its fingerprint. Existing shards are not made again, so a
killed recording resumes where it was, and an unchanged command costs nothing. If several processes
want the same recording, one makes it and the others wait.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from adaspec_rl.decoding.drafters import Drafter, NgramLookup, TableDrafter
from adaspec_rl.decoding.sampling import SAMPLER, Sampling
from adaspec_rl.decoding.survival import ProductSurvival, Survival, SurvivalHead
from adaspec_rl.decoding.verification import RULES, Verification
from adaspec_rl.engine.language_model import LanguageModel
from adaspec_rl.files import locked, remove_unfinished, write_atomically
from adaspec_rl.recording import shards
from adaspec_rl.recording.drafts import Drafts, draft_everywhere
from adaspec_rl.recording.fitting import FOLDS, SETTINGS, examples, fit_head, joined
from adaspec_rl.recording.ranks import chain_ranks, ranks_everywhere
from adaspec_rl.recording.texts import Text, generate_texts, replayable, text_rules
from adaspec_rl.recording.trace import (
    DraftTable,
    Trace,
    drafts_from_tensors,
    drafts_to_tensors,
    texts_from_tensors,
    texts_to_tensors,
)

logger = logging.getLogger(__name__)

SURVIVALS = ("product", "head")
LOOKUP = 0.05  # effort of recording drafts that need no model; a model's is 1
WAITING = "another process is recording %s: waiting for it"


@dataclass(frozen=True, slots=True)
class Recording:
    """The settings of a recording; recordings with different settings share nothing."""

    pair: str  # fingerprint
    sampling: Sampling
    verification: str
    eos_ids: tuple[int, ...]
    max_new_tokens: int
    max_length: int
    survival: str = "head"
    serves: str = "coupled"  # the rule of the sessions that estimates are for: whose margins to fit
    seed: int = 0  # text n is sampled with seed + n
    shard: int = 64  # prompts per shard

    def __post_init__(self) -> None:
        replayable(self.verification, self.sampling)
        if self.survival not in SURVIVALS:
            raise ValueError(
                f"unknown survival {self.survival!r}: expected one of {', '.join(SURVIVALS)}"
            )
        if self.serves not in RULES:
            raise ValueError(
                f"unknown verification {self.serves!r}: expected one of {', '.join(RULES)}"
            )
        for name in ("max_length", "max_new_tokens", "shard"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def fingerprint(
        self, prompts: Sequence[Sequence[int]], heads: Sequence[Survival] | None
    ) -> str:
        """A short hash of these settings, the prompts, and the given heads (None: fitted here)."""
        digest = hashlib.sha256(f"{shards.SCHEMA} {SAMPLER}".encode())
        digest.update(json.dumps(asdict(self), sort_keys=True).encode())
        digest.update(json.dumps([list(prompt) for prompt in prompts]).encode())
        if heads is None and self.survival == "head":
            digest.update(repr((FOLDS, SETTINGS)).encode())
        for head in heads or ():
            digest.update(head.name.encode())
            if isinstance(head, SurvivalHead):
                digest.update(shards.pack(head.tensors(), "", "survival"))
        return digest.hexdigest()[:16]


class Models(Protocol):
    """The models that a recorder runs; a `Pair` is one implementation."""

    @property
    def target(self) -> LanguageModel: ...

    @property
    def drafters(self) -> Sequence[Drafter]: ...


class ShardRecorder:
    """Makes the bytes of one shard at a time."""

    def __init__(self, models: Models, recording: Recording, fingerprint: str) -> None:
        self.models, self.recording, self.fingerprint = models, recording, fingerprint
        self.progress: Callable[[float], None] = lambda share: None  # of the shard at hand
        self._seeds: tuple[int, ...] = ()
        self._kept: Sequence[Verification] = []

    def texts(self, prompts: Sequence[Sequence[int]], first: int) -> bytes:
        """The shard of the target's texts after `prompts`; the first has number `first`."""
        recording = self.recording
        seeds = [recording.seed + first + n for n in range(len(prompts))]
        made = generate_texts(
            self.models.target,
            prompts,
            seeds,
            self._rules(seeds),
            eos_ids=recording.eos_ids,
            max_new_tokens=recording.max_new_tokens,
            progress=self.progress,
        )
        return shards.pack(texts_to_tensors(made), self.fingerprint, "texts")

    def drafts(self, texts: Sequence[Text], drafter: int) -> bytes:
        """The shard of a drafter's drafts in `texts`."""
        drafts = draft_everywhere(
            self.models.drafters[drafter],
            texts,
            self._rules([text.seed for text in texts]),
            self.recording.max_length,
            self.progress,
            noise=self.recording.serves != "rejection",
        )
        tensors = drafts_to_tensors(drafts)
        return shards.pack(tensors, self.fingerprint, f"drafts of drafter {drafter}")

    def ranks(self, texts: Sequence[Text], drafter: int) -> bytes:
        """The shard of the ranks of `texts`' own tokens among a drafter's choices."""
        found = ranks_everywhere(
            self.models.drafters[drafter],
            texts,
            self._rules([text.seed for text in texts]),
            self.recording.max_length,
            self.progress,
        )
        tensors = {"ranks": np.concatenate(found)}
        return shards.pack(tensors, self.fingerprint, f"ranks of drafter {drafter}")

    def _rules(self, seeds: Sequence[int]) -> Sequence[Verification]:
        """The rules for texts with these seeds; kept for one shard, as noise is slow to make."""
        if tuple(seeds) != self._seeds:
            recording = self.recording
            self._seeds = tuple(seeds)
            self._kept = text_rules(
                self.models.target, seeds, recording.verification, recording.sampling
            )
        return self._kept


class Workers(Protocol):
    """Runs jobs of a `ShardRecorder`, here or on other machines."""

    def run(self, jobs: Sequence["Job"]) -> Iterator[tuple[int, object]]:
        """Yield `(number of the job, result)` as jobs finish, in any order."""
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """A method of `ShardRecorder` and its arguments."""

    method: str
    arguments: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class InProcess:
    """Runs jobs one after another, in this process."""

    recorder: ShardRecorder

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, object]]:
        for number, job in enumerate(jobs):
            yield number, getattr(self.recorder, job.method)(*job.arguments)


def record(
    models: Models,
    recording: Recording,
    prompts: Sequence[Sequence[int]],
    domains: Sequence[str],
    cache: Path,
    *,
    heads: Sequence[Survival] | None = None,
    ranks: bool = False,
    workers: Callable[[str], Workers] | None = None,
    progress: Callable[[float, float], None] = lambda done, total: None,
) -> tuple[Trace, list[Survival]]:
    """Record, or load what has been recorded. Returns the trace and each drafter's survival.

    Args:
        cache: the folder of recordings, each in a folder of its own.
        heads: survival estimates by drafter, such as heads fitted on other prompts; None: as
            `recording.survival` says. Heads are then fitted on these texts: the heads returned on
            all of them, the heads that estimate a shard's drafts on the other shards, if there are
            any.
        ranks: also record what replaying token trees needs; can be added to a recording without it.
        workers: makes the workers that run the jobs, given the fingerprint; None: this process runs
            them.
        progress: is told how many prompts are done, of how many (each counts once for the target
            and once for each drafter, less for a lookup), also within a shard that this process
            makes.

    Raises:
        ValueError: the settings cannot be replayed, a shard is damaged, or the disk is full.
    """
    fingerprint = recording.fingerprint(prompts, heads)
    folder = cache / fingerprint
    here = ShardRecorder(models, recording, fingerprint)
    with ExitStack() as stack:
        wanted = [_estimates(folder, d) for d in range(len(models.drafters))]
        parts = range(-(-len(prompts) // recording.shard))
        wanted += [_ranks(folder, d, n) for d in _branching(models) for n in parts if ranks]
        if not all(path.exists() for path in wanted):
            stack.enter_context(locked(folder, lambda: logger.info(WAITING, folder)))
            remove_unfinished(folder)
        pool = workers(fingerprint) if workers else InProcess(here)
        return _record(here, pool, prompts, domains, folder, heads, ranks, progress)


def _record(
    here: ShardRecorder,
    pool: Workers,
    prompts: Sequence[Sequence[int]],
    domains: Sequence[str],
    folder: Path,
    heads: Sequence[Survival] | None,
    ranks: bool,
    progress: Callable[[float, float], None],
) -> tuple[Trace, list[Survival]]:
    models, recording, fingerprint = here.models, here.recording, here.fingerprint
    steps = range(0, len(prompts), recording.shard)
    count = len(models.drafters)
    ranked = _branching(models) if ranks else []
    efforts = [1.0 if item.model else LOOKUP for item in models.drafters]
    total = len(prompts) * (1 + sum(efforts) + sum(efforts[d] for d in ranked))
    done = 0.0

    def make(paths: Sequence[Path], jobs: Sequence[Job], sizes: Sequence[float]) -> None:
        nonlocal done
        missing = [n for n, path in enumerate(paths) if not path.exists()]
        done += sum(size for n, size in enumerate(sizes) if n not in missing)
        progress(done, total)
        begun = [sizes[n] for n in missing]  # those not done yet, the current one first
        here.progress = lambda share: progress(done + min(share, 0.99) * begun[0], total)
        for number, content in pool.run([jobs[n] for n in missing]):
            assert isinstance(content, bytes)
            write_atomically(paths[missing[number]], content)
            done += sizes[missing[number]]
            begun.pop(0)
            progress(done, total)

    parts = [prompts[first : first + recording.shard] for first in steps]
    sizes = [len(part) for part in parts]
    paths = [folder / f"texts-{n:04d}.safetensors" for n in range(len(parts))]
    make(paths, [Job("texts", item) for item in zip(parts, steps)], sizes)
    texts = [texts_from_tensors(shards.read(path, fingerprint, "texts")) for path in paths]
    # All drafters of one shard after another: they share its noise.
    places = [(n, d) for n in range(len(parts)) for d in range(count)]
    paths = [folder / f"drafts-{d}-{n:04d}.safetensors" for n, d in places]
    make(
        paths,
        [Job("drafts", (texts[n], d)) for n, d in places],
        [sizes[n] * efforts[d] for n, d in places],
    )
    by_place = dict(zip(places, paths))
    places = [(n, d) for n in range(len(parts)) for d in ranked]
    make(
        [_ranks(folder, d, n) for n, d in places],
        [Job("ranks", (texts[n], d)) for n, d in places],
        [sizes[n] * efforts[d] for n, d in places],
    )
    tables, chosen = [], []
    for d in range(count):
        kind = f"drafts of drafter {d}"
        drafts = [
            drafts_from_tensors(shards.read(by_place[n, d], fingerprint, kind), part)
            for n, part in enumerate(texts)
        ]
        made = list(zip(texts, drafts))
        if heads:
            survival, judges = heads[d], [heads[d]]
        else:
            survival, judges = _fitted(here, made, d, folder)
        survivals = _judged(here, made, judges, d, folder)
        drafter = models.drafters[d]
        foreseen = isinstance(drafter, TableDrafter)
        table = DraftTable.assemble(drafter.name, made, survivals, foreseen=foreseen)
        if ranks:
            table = replace(table, ranks=_read_ranks(here, d, len(parts), table, folder))
        tables.append(table)
        chosen.append(survival)
    every = [text for part in texts for text in part]
    return Trace.assemble(fingerprint, every, domains, tables, recording.max_length), chosen


def _branching(models: Models) -> list[int]:
    """Numbers of the drafters that have more than one choice."""
    return [n for n, item in enumerate(models.drafters) if not isinstance(item, NgramLookup)]


def _ranks(folder: Path, drafter: int, part: int) -> Path:
    return folder / f"ranks-{drafter}-{part:04d}.safetensors"


def _read_ranks(
    recorder: ShardRecorder, drafter: int, parts: int, table: DraftTable, folder: Path
) -> np.ndarray:
    """The ranks in a drafter's `parts` shards; a lookup's follow from its only choice."""
    if drafter not in _branching(recorder.models):
        return chain_ranks(table.accepted, table.tokens.shape[1])
    kind = f"ranks of drafter {drafter}"
    read = [
        shards.read(_ranks(folder, drafter, n), recorder.fingerprint, kind) for n in range(parts)
    ]
    return np.concatenate([part["ranks"] for part in read])


Made = tuple[Sequence[Text], Sequence[Drafts]]  # a shard


def _estimates(folder: Path, drafter: int) -> Path:
    """The file that is written last for a drafter."""
    return folder / f"estimates-{drafter}.safetensors"


def _judged(
    recorder: ShardRecorder,
    made: Sequence[Made],
    judges: Sequence[Survival],
    drafter: int,
    folder: Path,
) -> np.ndarray:
    """Estimated survival `[M, K]` of all drafts; judge `n % count` estimates shard `n`."""
    path, kind = _estimates(folder, drafter), f"estimates of drafter {drafter}"
    if not path.exists():
        found = [
            item.survivals(text, judges[n % len(judges)])
            for n, shard in enumerate(made)
            for text, item in zip(*shard)
        ]
        tensors = {"survival": np.concatenate(found)}
        write_atomically(path, shards.pack(tensors, recorder.fingerprint, kind))
    return shards.read(path, recorder.fingerprint, kind)["survival"]


def _fitted(
    recorder: ShardRecorder, made: Sequence[Made], drafter: int, folder: Path
) -> tuple[Survival, list[Survival]]:
    """The drafter's estimate, and for shard `n` the estimate `n % count`, fitted without it.

    Policies trained on a trace must see estimates that are only as good as those on new texts.
    """
    if recorder.recording.survival == "product":
        return ProductSurvival(), [ProductSurvival()]
    path = folder / f"survival-{drafter}.safetensors"
    kind = f"survival of drafter {drafter}"
    folds = min(FOLDS, len(made))
    names = ["all", *(f"without{fold}" for fold in range(folds))]
    if not path.exists():
        found = [examples((text, item.first()) for text, item in zip(*shard)) for shard in made]
        chosen = [range(len(made))] + [
            [n for n in range(len(made)) if n % folds != fold or folds == 1]
            for fold in range(folds)
        ]
        tensors: dict[str, np.ndarray] = {}
        for name, parts in zip(names, chosen):
            head = fit_head(
                joined([found[n][0] for n in parts]),
                np.concatenate([found[n][1] for n in parts]),
                recorder.models.target.vocab_size,
                log_probs=recorder.recording.sampling.temperature > 0,
            )
            tensors |= {f"{name}.{part}": array for part, array in head.tensors().items()}
        write_atomically(path, shards.pack(tensors, recorder.fingerprint, kind))
    stored = shards.read(path, recorder.fingerprint, kind)
    heads: list[Survival] = [
        SurvivalHead.from_tensors(
            {k.removeprefix(f"{name}."): v for k, v in stored.items() if k.startswith(f"{name}.")}
        )
        for name in names
    ]
    return heads[0], heads[1:]
