"""The target's answers to prompts of data files and to prompts of its own, shard by shard."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adaspec_rl.console import part_of, progress, standard_output
from adaspec_rl.engine.lean_model import LeanModel
from adaspec_rl.pairs.pair import Pair
from adaspec_rl.tools.distillation.prompts import digest
from adaspec_rl.tools.distillation.self_prompts import self_written_prompts
from adaspec_rl.tools.distillation.teacher_decoding import Task, Writing, write_texts
from adaspec_rl.tools.distillation.teacher_texts import TeacherText, TeacherTexts

SHARD = 256  # texts in a file
ROWS = 32  # texts that grow side by side
TEMPERATURES = (0.0, 0.8, 1.0)
SHARES = (0.4, 0.3, 0.3)  # share of the texts written at each temperature


@dataclass(frozen=True, slots=True)
class Assignment:
    """The texts that the target has to write."""

    prompts: Sequence[Sequence[int]]  # of the data; reused when all have an answer
    target: str  # its fingerprint
    self_written: float  # share of the texts whose prompts the target writes
    max_new_tokens: int
    seed: int

    @property
    def fingerprint(self) -> str:
        """A short hash of all that the texts depend on, except their number."""
        prompts = [list(ids) for ids in self.prompts]
        how = [self.self_written, self.max_new_tokens, self.seed, SHARD, ROWS]
        return digest([self.target, prompts, how])

    def texts(self, root: Path) -> TeacherTexts:
        """The folder of the texts, which may not exist yet."""
        return TeacherTexts(root / self.fingerprint, self.fingerprint)

    def data_prompts(self, number: int) -> list[Sequence[int]]:
        """The data's prompts that shard `number` answers; each pass over them has a new order."""
        if not self.prompts:
            return []
        count = SHARD - self.own_count
        return [self._drawn(place) for place in range(number * count, (number + 1) * count)]

    @property
    def own_count(self) -> int:
        """How many prompts of each shard the target writes itself."""
        return round(SHARD * self.self_written)

    def _drawn(self, place: int) -> Sequence[int]:
        turn, place = divmod(place, len(self.prompts))
        order = np.random.default_rng((self.seed, turn)).permutation(len(self.prompts))
        return self.prompts[order[place]]


def write_shards(pair: Pair, assignment: Assignment, root: Path, count: int) -> TeacherTexts:
    """Let the target of `pair` write the missing ones of the first `count` shards.

    Raises:
        ValueError: the target does not run in the lean engine, or has no chat template.
    """
    if not isinstance(pair.target, LeanModel):
        raise ValueError(
            f"hidden states come from the lean engine only, but {pair.target.name} runs in "
            "transformers: expected a Llama, Mistral, Qwen2 or Qwen3"
        )
    texts = assignment.texts(root)
    with progress(standard_output(), "the target's texts") as update:
        for number in range(texts.shards, count):
            tell = part_of(lambda share: update(share, 1.0), number / count, 1 / count)
            texts.write(number, _shard(pair, pair.target, assignment, texts, number, tell))
    return texts


def _shard(
    pair: Pair,
    target: LeanModel,
    assignment: Assignment,
    texts: TeacherTexts,
    number: int,
    tell: Callable[[float], None],
) -> list[TeacherText]:
    given = assignment.data_prompts(number)
    own: list[list[int]] = []
    if assignment.own_count:
        own = self_written_prompts(
            target,
            pair.tokenizer,
            assignment.own_count,
            seed=(assignment.seed, number, 0),
            rows=ROWS,
            end_ids=pair.eos_ids,
            known=_known(texts, number),
        )
    prompts = [*given, *own]
    seed = (assignment.seed, number, 1)
    temperatures = np.random.default_rng(seed).choice(TEMPERATURES, size=len(prompts), p=SHARES)
    tasks = [
        Task(prompt, float(temperature), (assignment.seed, number, 2, n), assignment.max_new_tokens)
        for n, (prompt, temperature) in enumerate(zip(prompts, temperatures))
    ]
    written = write_texts(target, tasks, rows=ROWS, end_ids=pair.eos_ids, progress=tell)
    return [_stored(text, self_written=n >= len(given)) for n, text in enumerate(written)]


def _known(texts: TeacherTexts, number: int) -> set[tuple[int, ...]]:
    """The prompts of the earlier shards."""
    return {
        tuple(text.tokens[: text.prompt_length].tolist())
        for earlier in range(number)
        for text in texts.read(earlier)
    }


def _stored(text: Writing, self_written: bool) -> TeacherText:
    return TeacherText(
        tokens=np.array(text.tokens, dtype=np.int32),
        prompt_length=len(text.task.prompt),
        temperature=text.task.temperature,
        self_written=self_written,
        choice_ids=np.stack(text.choice_ids),
        choice_log_probs=np.stack(text.choice_log_probs),
        hidden=np.stack(text.hidden),
    )
