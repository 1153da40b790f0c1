"""Prompts: the embedded domains, and JSON-lines files of several known layouts."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

EMBEDDED = Path(__file__).parent / "embedded"
SPLITS = ("train", "test")
TEXT_KEYS = ("text", "prompt", "question", "turns")  # `turns`: Spec-Bench, the first one is used


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
        Prompt(row["id"], row["domain"], row["text"]) for row in _rows(EMBEDDED / f"{split}.jsonl")
    ]


def jsonl_prompts(path: Path, split: str, test_share: float = 0.5) -> list[Prompt]:
    """The prompts of a file's `train` or `test` split, decided by a hash of each text.

    Each line is an object with a `text`, `prompt`, `question` or `turns` (Spec-Bench) and,
    optionally, a `domain` or `category` and an `id` or `question_id`.

    Raises:
        ValueError: no such file, a line that is not such an object, or no prompt in the split.
    """
    if not path.is_file():
        raise ValueError(f"no prompt file {path}: set data.path to a JSON-lines file")
    chosen = []
    for number, row in enumerate(_rows(path), 1):
        key = next((key for key in TEXT_KEYS if row.get(key)), None)
        if key is None:
            raise ValueError(
                f"{path}, line {number}: expected one of the keys {', '.join(TEXT_KEYS)}, "
                f"found {', '.join(row) or 'none'}"
            )
        text = row[key][0] if isinstance(row[key], list) else row[key]
        bucket = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32
        if (split == "test") == (bucket < test_share):
            domain = str(row.get("domain") or row.get("category") or path.stem)
            identity = row.get("id", row.get("question_id", number))
            chosen.append(Prompt(str(identity), domain, text))
    if not chosen:
        raise ValueError(f"{path} has no prompt in its {split} split: add lines to it")
    return chosen


def _rows(path: Path) -> list[dict]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is not JSON: {error.msg}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: expected an object, found {line[:40]}")
        rows.append(row)
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
