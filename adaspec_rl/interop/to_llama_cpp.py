"""For llama.cpp: flags for its draft model and n-gram lookup, and our lookup for its bindings."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from adaspec_rl.control.batch_controller import Load
from adaspec_rl.control.batching.rule import BatchRule
from adaspec_rl.decoding.round import Action
from adaspec_rl.interop.exported import Export, Part
from adaspec_rl.interop.parts import ONE_DRAFTER, keep_policy, model_of
from adaspec_rl.interop.replayed import Replayable, fastest
from adaspec_rl.interop.schedules import seconds_by_length
from adaspec_rl.interop.to_vllm import lookup_replayable
from adaspec_rl.interop.workshop import Workshop
from adaspec_rl.pairs.drafter_names import NGRAM, is_free
from adaspec_rl.recording.trace import Trace
from adaspec_rl.replay.outcomes import text_features

INTERFACE = (
    "ggml-org/llama.cpp, docs/speculative.md and common/arg.cpp as of --spec-draft-n-max (2026), "
    "and llama-cpp-python 0.3's llama_speculative.LlamaDraftModel"
)
FLAGS, LOOKUP_FLAGS, MODULE = "flags.txt", "flags_ngram.txt", "adaspec_draft.py"
DRAFT, MOD, LOOKUP = "draft", "ngram-mod", "lookup"
CHANCES = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9)  # tried values of --spec-draft-p-min
MATCHES = (1, 2, 3, 4, 6, 8, 12)  # tried values of --spec-ngram-mod-n-match
MODEL = '''"""The exported draft model: `Llama(..., draft_model=draft_model())`."""

from pathlib import Path

from adaspec_rl.interop.llama_cpp import LookupDraft


def draft_model() -> LookupDraft:
    return LookupDraft.load(Path(__file__).parent, {drafter})
'''


@dataclass(frozen=True, slots=True)
class Flags:
    """The server's flags."""

    kind: str  # draft-simple, ngram-mod
    n_max: int
    n_min: int = 0
    p_min: float = 0.0  # draft-simple
    n_match: int = 0  # ngram-mod
    model: str = ""

    def words(self) -> list[str]:
        """The flags as words of a command line."""
        if self.kind == MOD:
            return [
                *("--spec-type", MOD, "--spec-ngram-mod-n-match", str(self.n_match)),
                *("--spec-ngram-mod-n-min", str(self.n_min)),
                *("--spec-ngram-mod-n-max", str(self.n_max)),
            ]
        return [
            *("--spec-type", self.kind, "--spec-draft-model", self.model),
            *("--spec-draft-n-max", str(self.n_max), "--spec-draft-n-min", str(self.n_min)),
            *("--spec-draft-p-min", f"{self.p_min:g}"),
        ]

    @classmethod
    def parse(cls, text: str) -> "Flags":
        """Read the flags from a command line.

        Raises:
            ValueError: a flag is unknown or has no value.
        """
        words = shlex.split(text)
        given = dict(zip(words[::2], words[1::2]))
        if len(words) % 2 or not set(given) <= set(_FIELDS):
            raise ValueError(f"expected flags among {', '.join(_FIELDS)}, got {text!a:.100}")
        values = {_FIELDS[flag]: value for flag, value in given.items()}
        kinds = cls.__annotations__
        return cls(**{name: kinds[name](value) for name, value in values.items()})


_FIELDS = {
    "--spec-type": "kind",
    "--spec-draft-model": "model",
    "--spec-draft-n-max": "n_max",
    "--spec-draft-n-min": "n_min",
    "--spec-draft-p-min": "p_min",
    "--spec-ngram-mod-n-match": "n_match",
    "--spec-ngram-mod-n-min": "n_min",
    "--spec-ngram-mod-n-max": "n_max",
}


class FlaggedDrafts(BatchRule):
    """Drafts as the server does under its flags.

    Drafting stops before the first token whose probability is below `p_min`; drafts shorter than
    `n_min` are dropped. Survivals must be the drafter's own probabilities, see `as_drafted`.
    """

    name = "llama_cpp"
    allots = True

    def __init__(self, flags: Flags) -> None:
        self._flags = flags
        self._action = Action(flags.n_max, 0, flags.p_min)

    def decide(
        self, rows: Sequence[int], observations: np.ndarray | None, load: Load
    ) -> list[Action]:
        return [self._action] * len(rows)

    def allot(self, rows: Sequence[int], survivals: Sequence[Sequence[float]]) -> list[int]:
        flags = self._flags
        kept = [int((chances >= np.float32(flags.p_min)).sum()) for chances in survivals]
        return [count if count >= flags.n_min else 0 for count in kept]


def as_drafted(flags: Flags, trace: Trace) -> Trace:
    """A trace of one drafter as `FlaggedDrafts` needs it."""
    (table,) = trace.drafters
    if flags.kind == MOD:
        known = matches(trace) >= flags.n_match
        tokens = np.where(known[:, None], table.tokens, -1)
        ones = np.ones_like(table.survival)
        return replace(trace, drafters=(replace(table, tokens=tokens, survival=ones),))
    chances = np.minimum.accumulate(np.exp(table.signals[:, :, 0]), axis=1)
    return replace(trace, drafters=(replace(table, survival=chances.astype(np.float32)),))


def matches(trace: Trace) -> np.ndarray:
    """At each position, the length of the longest suffix that occurred earlier, `[M]`, up to 16."""
    at_start, after = text_features(trace)
    before = np.roll(after, 1, axis=0)
    before[trace.starts[:-1]] = at_start
    return np.rint(2.0 ** before[:, 1] - 1).astype(np.int64)


def write(shop: Workshop, folder: Path) -> list[Part]:
    """Write all parts that the pair has drafters for."""
    parts = []
    models = [n for n, name in enumerate(shop.drafters) if not is_free(name)]
    if models:
        number = shop.drafter if shop.drafter in models else models[0]
        own = shop.of(number)
        tried = [
            Flags("draft-simple", n_max, 0, p_min, model=own.drafters[0])
            for n_max in _lengths(own)
            for p_min in CHANCES
        ]
        best = fastest(tried, flagged, own.tuning())
        (folder / FLAGS).write_text(shlex.join(best.words()) + "\n")
        parts.append(_draft_part(number, own.drafters[0]))
    lookup = shop.named(NGRAM)
    if lookup is not None:
        own = shop.of(lookup)
        tried = [
            Flags(MOD, n_max, 0, n_match=n_match) for n_max in _lengths(own) for n_match in MATCHES
        ]
        best = fastest(tried, flagged, own.tuning())
        (folder / LOOKUP_FLAGS).write_text(shlex.join(best.words()) + "\n")
        parts.append(_mod_part(lookup))
        if not shop.bundle.spec.needs_signals:
            keep_policy(shop.bundle, shop.costs, folder)
            (folder / MODULE).write_text(MODEL.format(drafter=lookup))
            parts.append(_lookup_part(lookup))
    return parts


def replayables(folder: Path, export: Export) -> dict[str, Replayable]:
    """The parts, loaded back from the folder."""
    found = {}
    for part in export.parts:
        assert part.drafter is not None
        if part.name == LOOKUP:
            found[part.name] = lookup_replayable(folder, part.drafter)
        else:
            file = FLAGS if part.name == DRAFT else LOOKUP_FLAGS
            flags = Flags.parse((folder / file).read_text())
            found[part.name] = flagged(flags, part.drafter)
    return found


def flagged(flags: Flags, drafter: int | None = None) -> Replayable:
    """The server's drafts under its flags."""
    return Replayable(lambda: FlaggedDrafts(flags), drafter, lambda trace: as_drafted(flags, trace))


def _lengths(own: Workshop) -> list[int]:
    """The best fixed length, and longer lengths, whose drafts may stop early."""
    steps = seconds_by_length(own.learned, own.profile(), own.sizes[:1])[0]
    best = 1 + int(steps[1:].argmin())
    return sorted({best, min(2 * best, len(steps) - 1), len(steps) - 1})


def _draft_part(drafter: int, source: str) -> Part:
    return Part(
        DRAFT,
        (FLAGS,),
        f"llama-server -m MODEL.gguf $(cat {FLAGS})",
        (drafter,),
        lost=(ONE_DRAFTER, "all that the policy reads in the text, and its survival estimates"),
        mind=(*model_of(source), "the drafter must be converted to GGUF; batch size 1 was tuned"),
    )


def _mod_part(drafter: int) -> Part:
    return Part(
        MOD,
        (LOOKUP_FLAGS,),
        f"llama-server -m MODEL.gguf $(cat {LOOKUP_FLAGS})",
        (drafter,),
        lost=("all drafters but the lookup", "all that the policy reads in the text but matches"),
        mind=(
            "ngram-mod shares one hash of n-grams among all requests, while the replay looks in "
            "each text alone: the server drafts more often",
        ),
    )


def _lookup_part(drafter: int) -> Part:
    return Part(
        LOOKUP,
        (MODULE,),
        "Llama(..., draft_model=adaspec_draft.draft_model()) in llama-cpp-python",
        (drafter,),
        lost=("all drafters but the lookup",),
        mind=("llama-cpp-python evaluates one text at a time",),
    )
