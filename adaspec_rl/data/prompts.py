"""Prompts: the embedded domains, and JSON-lines files of several known layouts."""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adaspec_rl.data.conversations import (
    Conversation,
    dressed,
    first_user_text,
    read_conversation,
)
from adaspec_rl.data.json_lines import read_objects

EMBEDDED = Path(__file__).parent / "embedded"
SPLITS = ("train", "test")
TEXT_KEYS = ("messages", "turns", "text", "prompt", "question")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text to continue, with the domain that figures are grouped by.

    A prompt with `turns` is a conversation. Its `text` is the first user turn or, once encoded,
    everything that the model reads of the conversation.
    """

    id: str
    domain: str
    text: str
    turns: Conversation = ()


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt with its token ids."""

    prompt: Prompt
    ids: list[int]


def embedded_prompts(split: str) -> list[Prompt]:
    """The shipped prompts of all three domains; no model was fitted on them."""
    return [
        Prompt(row["id"], row["domain"], row["text"])
        for _, row in read_objects(EMBEDDED / f"{split}.jsonl")
    ]


def jsonl_prompts(
    path: Path, split: str, test_share: float = 0.5, template: str | None = None
) -> list[Prompt]:
    """The prompts of a file's `train` or `test` split; see `split_prompts`.

    Each line is an object with one of `messages`, `turns` (Spec-Bench), `text`, `prompt` and
    `question`; the first of these counts. A `domain` or `category` and an `id` or `question_id` are
    optional.

    Raises:
        ValueError: there is no such file, a line is not such an object, or the split is empty.
    """
    prompts = []
    for number, row in read_objects(path):
        where = f"{path}, line {number}"
        identity = _name(row, ("id", "question_id"), number, where)
        domain = _name(row, ("domain", "category"), path.stem, where)
        prompts.append(Prompt(identity, domain, *_turns_of(row, TEXT_KEYS, where)))
    return split_prompts(prompts, split, test_share, template, source=str(path))


def gsm8k_prompts(
    path: Path, split: str, test_share: float = 0.5, template: str | None = None
) -> list[Prompt]:
    """The same for GSM8K's own files: objects with a `question` (and an `answer`, not used).

    Raises:
        ValueError: there is no such file, a line is not such an object, or the split is empty.
    """
    prompts = [
        Prompt(str(number), "gsm8k", *_turns_of(row, ("question",), f"{path}, line {number}"))
        for number, row in read_objects(path)
    ]
    return split_prompts(prompts, split, test_share, template, source=str(path))


def split_prompts(
    prompts: Sequence[Prompt], split: str, test_share: float, template: str | None, *, source: str
) -> list[Prompt]:
    r"""The prompts of the `train` or `test` split, decided by a hash of each text.

    A conversation's first user turn decides for all of its turns.

    Args:
        test_share: about this share is held out for `test`; 1 holds out everything.
        template: each text or user turn takes the place of `{text}` in it:
            `"Question: {text}\nAnswer:"`.
        source: what errors call the prompts.

        Raises:
            ValueError: the split is empty, ids repeat, or the share or template is invalid.
    """
    if not 0 <= test_share <= 1:
        raise ValueError(f"data.test_share must be from 0 to 1, got {test_share}")
    if template is not None and "{text}" not in template:
        raise ValueError(f"data.template must contain {{text}}, got {template!r}")
    chosen = [
        prompt for prompt in prompts if (split == "test") == (_bucket(prompt.text) < test_share)
    ]
    if not chosen:
        remedy = "add prompts to it"
        if prompts and test_share in (0, 1):
            remedy = f"{'raise' if test_share == 0 else 'lower'} data.test_share"
        raise ValueError(
            f"{source} has no prompt in its {split} split (data.test_share={test_share:g}, "
            f"{len(prompts)} prompts in all): {remedy}"
        )
    check_ids(chosen, source)
    if template is None:
        return chosen
    return [
        replace(
            prompt,
            text=template.replace("{text}", prompt.text),
            turns=dressed(prompt.turns, template),
        )
        for prompt in chosen
    ]


def check_ids(prompts: Sequence[Prompt], source: str) -> None:
    """Refuse two prompts with the same id; the error calls the prompts `source`."""
    for identity, count in Counter(prompt.id for prompt in prompts).most_common(1):
        if count > 1:
            raise ValueError(
                f"{source} has {count} prompts with the id {identity}: ids must differ"
            )


def _bucket(text: str) -> float:
    """A hash of the text as a number from 0 up to but not including 1."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32


def read_turns(value: object) -> tuple[str, Conversation]:
    """A text and no turns, or the first user turn of a conversation and all of its turns.

    Raises:
        ValueError: `value` is neither, or is empty; the message continues after its name.
    """
    if isinstance(value, list) and value:
        found = read_conversation(value)
        return first_user_text(found), found
    if value in ("", []):
        raise ValueError("is empty: give it a text")
    if not isinstance(value, str):
        raise ValueError(f"is no text: expected a text or a list of turns, found {value!r:.40}")
    return value, ()


def _turns_of(row: dict[str, Any], keys: Sequence[str], where: str) -> tuple[str, Conversation]:
    """The text and turns in the first of `keys` that has valid ones."""
    wrong = []
    for key in keys:
        if row.get(key) is not None:
            try:
                return read_turns(row[key])
            except ValueError as error:
                wrong.append(f"{where}: {key} {error}")
    if wrong:
        raise ValueError(wrong[0])
    raise ValueError(
        f"{where}: expected a text in one of the keys {', '.join(keys)}, "
        f"found {', '.join(row) or 'none'}"
    )


def _name(row: dict[str, Any], keys: Sequence[str], otherwise: object, where: str) -> str:
    """The row's value at the first of `keys` that has one, else `otherwise`."""
    for key in keys:
        value = row.get(key)
        if isinstance(value, (list, dict)):
            raise ValueError(f"{where}: expected a text or a number in {key}, found {value!r:.40}")
        if value not in (None, ""):
            return str(value)
    return str(otherwise)


def balanced(prompts: Sequence[Prompt], per_domain: int | None, skip: int = 0) -> list[Prompt]:
    """The first `per_domain` prompts of each domain (None: all), taking turns between domains.

    The first `skip` prompts of each domain are left out.
    """
    by_domain: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        by_domain.setdefault(prompt.domain, []).append(prompt)
    by_domain = {domain: items[skip:] for domain, items in by_domain.items()}
    longest = max(map(len, by_domain.values()), default=0)
    count = longest if per_domain is None else min(per_domain, longest)
    return [
        items[turn] for turn in range(count) for items in by_domain.values() if turn < len(items)
    ]


def short_prompts(
    prompts: Sequence[Prompt],
    encode: Callable[[Prompt], Sequence[int]],
    max_tokens: int,
    *,
    warn: bool = True,
) -> list[Prompt]:
    """The prompts of at most `max_tokens` tokens; `warn` logs a warning that counts the others.

    Raises:
        ValueError: every prompt is longer.
    """
    lengths = [len(encode(prompt)) for prompt in prompts]
    kept = [prompt for prompt, length in zip(prompts, lengths) if length <= max_tokens]
    if not kept:
        raise ValueError(
            f"all {len(prompts)} prompts are longer than data.max_prompt_tokens={max_tokens}: the "
            f"shortest has {min(lengths)} tokens"
        )
    if warn and len(kept) < len(prompts):
        left = Counter(item.domain for item in prompts) - Counter(item.domain for item in kept)
        logger.warning(
            "left out %d of %d prompts, longer than data.max_prompt_tokens=%d: %s",
            left.total(),
            len(prompts),
            max_tokens,
            ", ".join(f"{count} of {domain}" for domain, count in left.most_common()),
        )
    return kept
