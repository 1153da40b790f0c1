"""The texts that a drafter is distilled on: the target's own, with its distributions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from adaspec_rl.data.encoding import as_asked, encode
from adaspec_rl.data.prompts import Prompt, balanced
from adaspec_rl.engine.load_options import LoadOptions
from adaspec_rl.pairs.pair import load_pair
from adaspec_rl.tools.distillation.config import DistillConfig
from adaspec_rl.tools.distillation.teacher_texts import TeacherText, TeacherTexts
from adaspec_rl.tools.distillation.teacher_writer import SHARD, Assignment, write_shards


@dataclass(frozen=True, slots=True)
class Division:
    """Texts to learn from, and texts to judge by; no prompt has texts in both."""

    train: list[TeacherText]
    held_out: list[TeacherText]

    @property
    def about(self) -> dict[str, int]:
        """The numbers of texts and tokens, for data sheets."""
        answers = sum(len(text.tokens) - text.prompt_length for text in self.train)
        return {
            "train": len(self.train),
            "held_out": len(self.held_out),
            "self_written_prompts": sum(text.self_written for text in self.train),
            "answer_tokens": answers,
        }


def teacher_texts(
    config: DistillConfig, prompts: Sequence[Prompt], cache: Path
) -> list[TeacherText]:
    """The stored texts, or texts in `cache`, of which the target writes the missing ones.

    Raises:
        ValueError: too few texts are stored, the data's prompts are too long, or the target cannot
            write such texts.
    """
    count = -(-config.texts // SHARD)
    if config.stored is not None:
        return stored_texts(config, config.stored).read_all(count)
    device, dtype = config.model.placement()
    target = config.model.target
    pair = load_pair(
        "target", target, [], LoadOptions(dtype=dtype, device=device, quantize=config.quantize)
    )
    chosen = balanced(prompts, config.train_prompts)
    assignment = Assignment(
        encoded(pair.tokenizer, chosen, config, pair.target.context_length),
        target=pair.fingerprint,
        self_written=config.self_written,
        max_new_tokens=config.max_new_tokens,
        seed=config.seed,
    )
    return write_shards(pair, assignment, cache, count).read_all(count)


def stored_texts(config: DistillConfig, stored: str) -> TeacherTexts:
    """The texts in the folder `stored`.

    Raises:
        ValueError: there are fewer than `config.texts`.
    """
    folder, count = Path(stored).expanduser(), -(-config.texts // SHARD)
    texts = TeacherTexts(folder, folder.resolve().name)
    if texts.shards < count:
        raise ValueError(
            f"texts={config.texts} fill {count} files of {SHARD}, but stored={folder} holds "
            f"{texts.shards}: lower texts, or let the target write more"
        )
    return texts


def encoded(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    config: DistillConfig,
    context: int,
) -> list[list[int]]:
    """The token ids of prompts, as the target gets them, with room for an answer.

    Longer plain texts are cut; longer conversations are left out.

    Raises:
        ValueError: no prompt is left.
    """
    room = context - config.max_new_tokens
    found = []
    for prompt in as_asked(prompts, config.chat, tokenizer):
        ids = encode(tokenizer, prompt).ids
        if len(ids) <= room or not prompt.turns:
            found.append(ids[:room])
    if found:
        return found
    raise ValueError(
        f"no prompt leaves room for max_new_tokens={config.max_new_tokens} in a context of "
        f"{context} tokens: lower it, or take shorter prompts"
    )


def divided(
    texts: Sequence[TeacherText], test_share: float, prompts: Sequence[Sequence[int]]
) -> Division:
    """Hold out the texts of `prompts`, and about `test_share` of the others, by a hash of each.

    Raises:
        ValueError: one part would be empty.
    """
    known = {tuple(ids) for ids in prompts}
    parts = Division([], [])
    for text in texts:
        held_out = text.share < test_share or tuple(text.prompt.tolist()) in known
        (parts.held_out if held_out else parts.train).append(text)
    if not parts.train or not parts.held_out:
        raise ValueError(
            f"test_share={test_share:g} of {len(texts)} texts leaves {len(parts.train)} to learn "
            f"from and {len(parts.held_out)} to judge by: expected some of both; write more texts"
        )
    return parts
