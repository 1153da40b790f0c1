"""The output of generation: token by token to a streamer, and all of it at the end."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation import GenerateDecoderOnlyOutput
from transformers.generation.streamers import BaseStreamer

from adaspec_rl.interop.custom_generate.prepared import Memory
from adaspec_rl.interop.custom_generate.texts import Written


@dataclass
class SpeculativeOutput(GenerateDecoderOnlyOutput):
    """The output of `generate`, with the course of each text.

    After a row's end, its scores give the padding all the probability.

    Attributes:
        emitted: how many tokens each round added, by row.
        drafted: how many drafted tokens it verified.
        accepted: how many of them it kept.
        memory: the weights in memory.
    """

    emitted: tuple[tuple[int, ...], ...] | None = None
    drafted: tuple[tuple[int, ...], ...] | None = None
    accepted: tuple[tuple[int, ...], ...] | None = None
    memory: Memory | None = None


class Streaming:
    """Streams new tokens: of one text as they come, of several texts column by column."""

    def __init__(self, streamer: BaseStreamer | None, rows: int) -> None:
        self._streamer = streamer
        self._rows: list[list[int]] = [[] for _ in range(rows)]
        self._told = 0  # columns

    def __call__(self, row: int, tokens: Sequence[int]) -> None:
        if self._streamer is None:
            return
        if len(self._rows) == 1:
            self._streamer.put(torch.tensor(tokens))
            return
        self._rows[row] += tokens
        self._tell(min(map(len, self._rows)), 0)

    def _tell(self, columns: int, padding: int) -> None:
        assert self._streamer is not None
        for place in range(self._told, columns):
            column = [row[place] if place < len(row) else padding for row in self._rows]
            self._streamer.put(torch.tensor(column))
        self._told = max(self._told, columns)

    def end(self, padding: int) -> None:
        """End the stream after all texts; shorter texts are padded."""
        if self._streamer is not None:
            self._tell(max(map(len, self._rows)), padding)
            self._streamer.end()


def gathered(
    input_ids: torch.Tensor,
    written: Sequence[Written],
    config: GenerationConfig,
    padding: int,
    memory: Memory,
) -> torch.Tensor | SpeculativeOutput:
    """All texts after their prompts `[B, n]`, padded, with all other requested outputs."""
    longest = max(one.rule.ended or one.rule.length for one in written) - input_ids.shape[1]
    tokens = input_ids.new_full((len(written), longest), padding)
    for row, one in enumerate(written):
        own = one.tokens[:longest]
        tokens[row, : len(own)] = torch.tensor(own)
    sequences = torch.cat([input_ids, tokens], dim=1)
    if not config.return_dict_in_generate:
        return sequences

    def counts(name: str) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(getattr(round_, name) for round_ in one.rounds) for one in written)

    kept: dict[str, Any] = {
        "sequences": sequences,
        "scores": _columns([one.rule.scores for one in written], longest, padding),
        "logits": _columns([one.rule.logits for one in written], longest, padding),
    }
    return SpeculativeOutput(
        **kept,
        emitted=tuple(tuple(len(r.tokens) for r in one.rounds) for one in written),
        drafted=counts("drafted"),
        accepted=counts("accepted"),
        memory=memory,
    )


def _columns(
    rows: Sequence[list[torch.Tensor] | None], longest: int, padding: int
) -> tuple[torch.Tensor, ...] | None:
    """`[B, V]` for each new token; None if they were not kept."""
    kept = [row for row in rows if row is not None]
    if not kept:
        return None
    certain = torch.full_like(kept[0][0], -torch.inf)
    certain[padding] = 0.0
    return tuple(
        torch.stack([row[place] if place < len(row) else certain for row in kept])
        for place in range(longest)
    )
