"""The target writes many texts side by side; its distributions and hidden states are kept.

A row that has finished its text starts the next one. Prompts are read one token per step, beside
rows that write. Where arithmetic is the limit, as on CPUs, this takes no longer than reading them
at once, and it yields the hidden state of every position.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from adaspec_rl.engine.lean_model import LeanModel
from adaspec_rl.tools.distillation.teacher_texts import CHOICES

_BLOCK = 64  # logits in a block; the largest of each block is found first


@dataclass(frozen=True, slots=True)
class Task:
    """One text to write."""

    prompt: Sequence[int]
    temperature: float
    seed: tuple[int, ...]  # seeds the random numbers that choose its tokens
    max_new_tokens: int


@dataclass(slots=True)
class Writing:
    """A text as it grows."""

    task: Task
    tokens: list[int]
    uniforms: np.ndarray  # [max_new_tokens]
    finished: bool = False
    read: int = 0  # tokens that the model has read
    choice_ids: list[np.ndarray] = field(default_factory=list)  # [CHOICES] int32 each
    choice_log_probs: list[np.ndarray] = field(default_factory=list)  # [CHOICES] float16 each
    hidden: list[np.ndarray] = field(default_factory=list)  # [hidden] uint16 each

    @property
    def answer(self) -> list[int]:
        return self.tokens[len(self.task.prompt) :]


@torch.inference_mode()
def write_texts(
    target: LeanModel,
    tasks: Sequence[Task],
    *,
    rows: int,
    end_ids: Sequence[int],
    progress: Callable[[float], None] = lambda share: None,
) -> list[Writing]:
    """Every task's text, `rows` at a time; `progress` gets the finished share."""
    made = [_begin(task) for task in tasks]
    # The longest prompts go first, so that little is left when few rows work at the end.
    waiting = sorted(made, key=lambda text: len(text.tokens))
    rows = min(rows, len(made))
    working: list[Writing | None] = [waiting.pop() for _ in range(rows)]
    longest = max(len(task.prompt) + task.max_new_tokens for task in tasks)
    target.reset(rows, min(longest, target.context_length))
    while any(working):
        _step(target, working, end_ids)
        for row, text in enumerate(working):
            if text is not None and text.finished:
                working[row] = waiting.pop() if waiting else None
                progress(sum(writing.finished for writing in made) / len(made))
        # A row without a text reads the same token again and again.
        target.rollback(torch.tensor([text.read if text else 0 for text in working]))
    target.check()
    return made


def _begin(task: Task) -> Writing:
    uniforms = np.random.default_rng(task.seed).random(task.max_new_tokens)
    return Writing(task, list(task.prompt), uniforms)


def _step(target: LeanModel, working: Sequence[Writing | None], end_ids: Sequence[int]) -> None:
    """Each row reads one more token, and writes the next where it has read all."""
    unread = [[text.tokens[text.read] if text else 0] for text in working]
    logits = target.extend(torch.tensor(unread, device=target.device))[:, 0]  # [B, V]
    assert target.last_hidden is not None
    states = target.last_hidden[:, 0].bfloat16().cpu().view(torch.int16).numpy().view(np.uint16)
    writing = []
    for row, text in enumerate(working):
        if text is None:
            continue
        text.hidden.append(states[row].copy())
        text.read += 1
        if text.read == len(text.tokens):
            writing.append(row)
    if writing:
        texts = [text for row in writing if (text := working[row]) is not None]
        _choose(logits[writing], texts, end_ids, target.context_length)


def _choose(
    logits: torch.Tensor, texts: Sequence[Writing], end_ids: Sequence[int], context: int
) -> None:
    """Append a token to each of `texts`, whose `logits` are `[B, V]`."""
    best, ids = largest(logits, CHOICES)
    log_probs = (best - logits.logsumexp(-1, keepdim=True)).half().cpu().numpy()
    uniforms = [text.uniforms[len(text.answer)] for text in texts]
    temperatures = [text.task.temperature for text in texts]
    chosen = sampled(logits, best, ids, temperatures, uniforms)
    listed = ids.to(torch.int32).cpu().numpy()
    for row, text in enumerate(texts):
        text.choice_ids.append(listed[row])
        text.choice_log_probs.append(log_probs[row])
        text.tokens.append(chosen[row])
        full = len(text.tokens) == context or len(text.answer) == text.task.max_new_tokens
        text.finished = full or chosen[row] in end_ids


def largest(logits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` largest of `logits` `[B, V]`, descending, and their places.

    They lie in the `count` blocks with the largest maxima, so that few logits need sorting.
    """
    size = logits.shape[1]
    if size < 4 * count * _BLOCK:
        return logits.topk(min(count, size))
    padding = -size % _BLOCK
    blocks = torch.nn.functional.pad(logits, (0, padding), value=-torch.inf)
    blocks = blocks.unflatten(1, (-1, _BLOCK))  # [B, blocks, _BLOCK]
    chosen = blocks.amax(-1).topk(count).indices  # [B, count]
    places = chosen[..., None] * _BLOCK + torch.arange(_BLOCK, device=logits.device)
    inside = blocks.gather(1, chosen[..., None].expand(-1, -1, _BLOCK)).flatten(1)
    best, found = inside.topk(count)
    return best, places.flatten(1).gather(1, found)


def sampled(
    logits: torch.Tensor,
    best: torch.Tensor,
    ids: torch.Tensor,
    temperatures: Sequence[float],
    uniforms: Sequence[float],
) -> list[int]:
    """Sample a token per row by inversion; `best` and `ids` `[B, CHOICES]` are likeliest first."""
    chosen = ids[:, 0].tolist()
    for row, temperature in enumerate(temperatures):
        if temperature == 0:
            continue
        scaled = logits[row] / temperature
        total = scaled.logsumexp(0)
        reached = (best[row] / temperature - total).double().exp().cumsum(0)
        rest = uniforms[row] - float(reached[-1])
        if rest < 0:
            chosen[row] = int(ids[row, int((reached <= uniforms[row]).sum())])
            continue
        others = (scaled - total).double().exp().index_fill(0, ids[row], 0.0).cumsum(0)
        place = int((others <= rest).sum())
        # Because of rounding, the number may exceed the sum of all.
        chosen[row] = place if place < len(others) else int(ids[row, -1])
    return chosen
