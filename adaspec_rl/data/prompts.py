"""Prompts: the embedded domains, and JSON-lines files of several known layouts."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

EMBEDDED = Path(__file__).parent / "embedded"
SPLITS = ("train", "test")
TEXT_KEYS = ("text", "prompt", "question", "turns")  # `turns`: Spec-Bench, the first one is used

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text to continue, with the domain that figures are grouped by."""

    id: str
    domain: str
    text: str


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt with its token ids."""

    prompt: Prompt
    ids: list[int]


def embedded_prompts(split: str) -> list[Prompt]:
    """The shipped prompts of all three domains; no model was fitted on them."""
    return [
        Prompt(row["id"], row["domain"], row["text"])
        for _, row in _rows(EMBEDDED / f"{split}.jsonl")
    ]


def jsonl_prompts(
    path: Path, split: str, test_share: float = 0.5, template: str | None = None
) -> list[Prompt]:
    """The prompts of a file's `train` or `test` split; see `split_prompts`.

    Each line is an object with a `text`, `prompt`, `question` or `turns` (Spec-Bench) and,
    optionally, a `domain` or `category` and an `id` or `question_id`.

    Raises:
        ValueError: no such file, a line that is not such an object, or no prompt in the split.
    """
    prompts = []
    for number, row in _rows(path):
        text = _text(row, TEXT_KEYS, f"{path}, line {number}")
        domain = str(row.get("domain") or row.get("category") or path.stem)
        identity = row.get("id", row.get("question_id", number))
        prompts.append(Prompt(str(identity), domain, text))
    return split_prompts(prompts, split, test_share, template, source=str(path))


def gsm8k_prompts(
    path: Path, split: str, test_share: float = 0.5, template: str | None = None
) -> list[Prompt]:
    """The same of GSM8K's own files: objects with a `question` (and an `answer`, not used).

    Raises:
        ValueError: no such file, a line that is not such an object, or no prompt in the split.
    """
    prompts = [
        Prompt(str(number), "gsm8k", _text(row, ("question",), f"{path}, line {number}"))
        for number, row in _rows(path)
    ]
    return split_prompts(prompts, split, test_share, template, source=str(path))


def split_prompts(
    prompts: Sequence[Prompt], split: str, test_share: float, template: str | None, *, source: str
) -> list[Prompt]:
    r"""The prompts of the `train` or `test` split, decided by a hash of each text.

    Args:
        test_share: about this share is held out for `test`; 1 holds out everything.
        template: what the text is put into, at `{text}`: `"Question: {text}\nAnswer:"`.
        source: what errors call the prompts.

    Raises:
        ValueError: no prompt in the split, two of one id, or a share or template that cannot be.
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
    identity, count = Counter(prompt.id for prompt in chosen).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{source} has {count} prompts with the id {identity}: ids must differ")
    if template is None:
        return chosen
    return [replace(prompt, text=template.replace("{text}", prompt.text)) for prompt in chosen]


def _bucket(text: str) -> float:
    """A number from 0 up to but not including 1 that belongs to the text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32


def first_text(value: object) -> str | None:
    """A text, or the first of several turns; None where there is none."""
    first = value[0] if isinstance(value, list) and value else value
    return first if isinstance(first, str) and first else None


def _text(row: dict[str, Any], keys: Sequence[str], where: str) -> str:
    found = next((text for key in keys if (text := first_text(row.get(key)))), None)
    if found is None:
        raise ValueError(
            f"{where}: expected a text in one of the keys {', '.join(keys)}, "
            f"found {', '.join(row) or 'none'}"
        )
    return found


def _rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a JSON-lines file, each with its line number."""
    if not path.is_file():
        raise ValueError(f"no prompt file {path}: set data.path to a JSON-lines file")
    rows = []
    # Not `splitlines`: JSON strings may hold other line separators, such as U+2028.
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is not JSON: {error.msg}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: expected an object, found {line[:40]}")
        rows.append((number, row))
    return rows


def balanced(prompts: Sequence[Prompt], per_domain: int | None) -> list[Prompt]:
    """The first `per_domain` prompts of each domain, domains in turn (None: all of them)."""
    by_domain: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        by_domain.setdefault(prompt.domain, []).append(prompt)
    longest = max(map(len, by_domain.values()), default=0)
    count = longest if per_domain is None else min(per_domain, longest)
    return [
        items[turn] for turn in range(count) for items in by_domain.values() if turn < len(items)
    ]


def short_prompts(
    prompts: Sequence[Prompt], encode: Callable[[str], Sequence[int]], max_tokens: int
) -> list[Prompt]:
    """The prompts of at most `max_tokens` tokens; a logged warning counts those left out.

    Raises:
        ValueError: every prompt is longer.
    """
    lengths = [len(encode(prompt.text)) for prompt in prompts]
    kept = [prompt for prompt, length in zip(prompts, lengths) if length <= max_tokens]
    if not kept:
        raise ValueError(
            f"all {len(prompts)} prompts are longer than data.max_prompt_tokens={max_tokens}: the "
            f"shortest has {min(lengths)} tokens"
        )
    if len(kept) < len(prompts):
        left = Counter(item.domain for item in prompts) - Counter(item.domain for item in kept)
        logger.warning(
            "left out %d of %d prompts, longer than data.max_prompt_tokens=%d: %s",
            left.total(),
            len(prompts),
            max_tokens,
            ", ".join(f"{count} of {domain}" for domain, count in left.most_common()),
        )
    return kept
