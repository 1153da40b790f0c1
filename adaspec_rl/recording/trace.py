"""A recording in memory: the outcome of every draft at every position."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from adaspec_rl.recording.drafts import Drafts
from adaspec_rl.recording.texts import Text

FINISHED = ("eos", "length", "context")


@dataclass(frozen=True, slots=True)
class DraftTable:
    """One drafter's drafts at all `M` positions, up to `K` tokens each."""

    name: str
    tokens: np.ndarray  # [M, K] int32; -1 where it has no more to say
    accepted: np.ndarray  # [M] int32, leading tokens that are the text's own
    signals: np.ndarray  # [M, K, 4] float32, in the order of `decoding.signals.SIGNALS`
    survival: np.ndarray  # [M, K] float32, estimated chance that all up to this token survive
    # [M, K] uint8, ranks of the text's tokens among the drafter's choices (see `recording.ranks`);
    # None: not recorded, so that token trees cannot be replayed.
    ranks: np.ndarray | None = None
    foreseen: bool = False  # whether the drafter is a table, whose gain sessions forecast

    @classmethod
    def assemble(
        cls,
        name: str,
        made: Sequence[tuple[Sequence[Text], Sequence[Drafts]]],
        survival: np.ndarray,
        ranks: np.ndarray | None = None,
        foreseen: bool = False,
    ) -> "DraftTable":
        """A table from texts and their drafts, shard by shard."""
        pairs = [pair for shard in made for pair in zip(*shard)]
        return cls(
            name,
            tokens=np.concatenate([drafts.tokens for _, drafts in pairs]),
            accepted=np.concatenate([drafts.accepted(text) for text, drafts in pairs]),
            signals=np.concatenate([drafts.signals for _, drafts in pairs]),
            survival=survival,
            ranks=ranks,
            foreseen=foreseen,
        )

    def select(self, rows: np.ndarray) -> "DraftTable":
        """The drafts at some positions."""
        return DraftTable(
            self.name,
            self.tokens[rows],
            self.accepted[rows],
            self.signals[rows],
            self.survival[rows],
            None if self.ranks is None else self.ranks[rows],
            self.foreseen,
        )


@dataclass(frozen=True, slots=True)
class Trace:
    """`N` texts of the target, `M` positions in total, and every drafter's drafts there.

    The positions of text `n` are `starts[n]` to `starts[n + 1] - 1`. Position `starts[n] + i` is
    the decision after `i` generated tokens.
    """

    fingerprint: str  # of pair, prompts and settings
    texts: tuple[Text, ...]
    domains: tuple[str, ...]  # of each text
    drafters: tuple[DraftTable, ...]
    max_length: int
    starts: np.ndarray  # [N + 1] int64

    @classmethod
    def assemble(
        cls,
        fingerprint: str,
        texts: Sequence[Text],
        domains: Sequence[str],
        drafters: Sequence[DraftTable],
        max_length: int,
    ) -> "Trace":
        """A trace of these texts, in order; tables hold their positions one after another."""
        starts = np.concatenate([[0], np.cumsum([len(text.tokens) for text in texts])])
        for table in drafters:
            assert len(table.tokens) == starts[-1], f"{table.name} does not cover the texts"
        return cls(fingerprint, tuple(texts), tuple(domains), tuple(drafters), max_length, starts)

    def of_drafters(self, chosen: Sequence[int]) -> "Trace":
        """The same texts with some of the drafters, in this order."""
        return replace(self, drafters=tuple(self.drafters[number] for number in chosen))

    def select(self, chosen: Sequence[int]) -> "Trace":
        """The trace of some of the texts."""
        rows = np.concatenate([np.arange(self.starts[n], self.starts[n + 1]) for n in chosen])
        return Trace.assemble(
            self.fingerprint,
            [self.texts[n] for n in chosen],
            [self.domains[n] for n in chosen],
            [table.select(rows) for table in self.drafters],
            self.max_length,
        )


def texts_to_tensors(texts: Sequence[Text]) -> dict[str, np.ndarray]:
    """The tensors of a shard, which `texts_from_tensors` reads."""
    return {
        "prompts": np.concatenate([text.prompt for text in texts]).astype(np.int32),
        "prompt_lengths": np.array([len(text.prompt) for text in texts], dtype=np.int32),
        "seeds": np.array([text.seed for text in texts], dtype=np.int64),
        "tokens": np.concatenate([text.tokens for text in texts]).astype(np.int32),
        "lengths": np.array([len(text.tokens) for text in texts], dtype=np.int32),
        "finished": np.array([FINISHED.index(text.finished) for text in texts], dtype=np.uint8),
        "budgets": np.array([text.budget for text in texts], dtype=np.int32),
        "target_entropy": np.concatenate([text.target_entropy for text in texts]),
        "target_top_probability": np.concatenate([text.target_top_probability for text in texts]),
    }


def texts_from_tensors(tensors: Mapping[str, np.ndarray]) -> list[Text]:
    """The texts of a shard."""
    prompts = _split(tensors["prompts"], tensors["prompt_lengths"])
    tokens, entropies, tops = (
        _split(tensors[name], tensors["lengths"])
        for name in ("tokens", "target_entropy", "target_top_probability")
    )
    return [
        Text(
            prompt=prompts[n],
            seed=int(seed),
            tokens=tokens[n],
            finished=FINISHED[int(tensors["finished"][n])],
            budget=int(tensors["budgets"][n]),
            target_entropy=entropies[n],
            target_top_probability=tops[n],
        )
        for n, seed in enumerate(tensors["seeds"])
    ]


def drafts_to_tensors(drafts: Sequence[Drafts]) -> dict[str, np.ndarray]:
    """The tensors of a shard of one drafter, which `drafts_from_tensors` reads."""
    return {
        "tokens": np.concatenate([item.tokens for item in drafts]),
        "signals": np.concatenate([item.signals for item in drafts]),
    }


def drafts_from_tensors(tensors: Mapping[str, np.ndarray], texts: Sequence[Text]) -> list[Drafts]:
    """A drafter's drafts in the texts of a shard."""
    lengths = np.array([len(text.tokens) for text in texts])
    parts = (_split(tensors[name], lengths) for name in ("tokens", "signals"))
    return [Drafts(tokens, signals) for tokens, signals in zip(*parts)]


def _split(values: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    return np.split(values, np.cumsum(lengths)[:-1])
