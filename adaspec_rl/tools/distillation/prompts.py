"""The prompts that a drafter is trained and judged on."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from adaspec_rl.data.json_lines import read_text
from adaspec_rl.data.prompts import Prompt, embedded_prompts, jsonl_prompts, split_prompts

# A passage of plain text ends at a line end, if there is one within this many characters.
_PASSAGE = re.compile(r"(?s).{1,999}(?:\n|\Z)|.{1,1000}")


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompts that texts are made from, and those that the drafter is judged on."""

    train: list[Prompt]
    test: list[Prompt]

    @property
    def fingerprint(self) -> str:
        """A short hash of all texts."""
        return digest([[prompt.text for prompt in part] for part in (self.train, self.test)])


def read_prompts(data: str, test_share: float) -> Prompts:
    """The embedded prompts, or those of files: JSON lines, or passages of plain texts.

    A file's prompts are split by a hash of each text, as in `train_policy.py`: with the same share,
    both hold out the same prompts.

    Args:
        data: `embedded`, or paths with commas between.

    Raises:
        ValueError: there is no such file, it cannot be read, or a split is empty.
    """
    if data == "embedded":
        return Prompts(embedded_prompts("train"), embedded_prompts("test"))
    parts = [_read_file(name, test_share) for name in data.split(",")]
    return Prompts(
        [prompt for part in parts for prompt in part.train],
        [prompt for part in parts for prompt in part.test],
    )


def _read_file(data: str, test_share: float) -> Prompts:
    path = Path(data).expanduser()
    if not path.is_file():
        raise ValueError(f"there is no data file {data}: expected embedded, or a file")
    if path.suffix not in (".jsonl", ".txt"):
        raise ValueError(f"data={data} is of no known kind: expected a .jsonl or .txt file")
    try:
        if path.suffix == ".txt":
            found = passages(read_text(path), path.stem)
            train, test = (
                split_prompts(found, split, test_share, None, source=data)
                for split in ("train", "test")
            )
        else:
            train, test = (jsonl_prompts(path, split, test_share) for split in ("train", "test"))
    except ValueError as error:
        raise ValueError(str(error).replace("data.test_share", "test_share")) from None
    return Prompts(train, test)


def passages(text: str, domain: str) -> list[Prompt]:
    """A plain text in passages of at most 1,000 characters."""
    found = (part for part in _PASSAGE.findall(text) if part.strip())
    return [Prompt(str(number), domain, part) for number, part in enumerate(found)]


def digest(value: object) -> str:
    """A short hash of what JSON can hold."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
