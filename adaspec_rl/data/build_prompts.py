"""Cut the embedded prompts from the corpus: `python -m adaspec_rl.data.build_prompts`.

The result ships with the package, so that figures can be compared between machines and Python
versions. Prompts come from the `train` and `test` splits, which no language model was fitted on.
"""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from adaspec_rl.data.corpus import DIALOGUE_SEEDS, DOMAINS, documents
from adaspec_rl.data.word_problems import word_problem

COUNTS = {"train": 256, "test": 64}  # prompts per domain
FOLDER = Path(__file__).parent / "embedded"


def code_prompt(rng: random.Random, text: str) -> str | None:
    """A window of whole lines that begins at a definition or at the top of the file."""
    starts = [0, *(match.start() for match in re.finditer(r"^ *(def|class) ", text, re.M))]
    start = rng.choice(starts)
    end = text.find("\n", start + rng.randint(250, 600))
    return text[start : end + 1] if end > 0 else None


def prose_prompt(rng: random.Random, text: str) -> str | None:
    """A window that begins with a paragraph and ends between two words."""
    starts = [0, *(match.end() for match in re.finditer(r"\n\n(?=\w)", text))]
    start = rng.choice(starts)
    end = text.find(" ", start + rng.randint(200, 500))
    return text[start:end] if end > 0 else None


def dialogue_prompts(split: str) -> Iterator[str]:
    """A worked problem, then a question; the seeds differ from those of the `fit` split."""
    rng = random.Random(1000 + DIALOGUE_SEEDS[split])
    while True:
        question, answer = word_problem(rng)
        yield f"Question: {question}\n{answer}\n\nQuestion: {word_problem(rng)[0]}\n"


def document_prompts(domain: str, split: str) -> Iterator[str]:
    """Windows of a domain's documents, taking turns between documents, without repeats."""
    texts = list(documents(domain, split))
    cut = {"code": code_prompt, "prose": prose_prompt}[domain]
    rng = random.Random(f"{domain}:{split}")
    seen = set()
    for turn in range(100 * len(texts)):
        prompt = cut(rng, texts[turn % len(texts)])
        if prompt and prompt[:80] not in seen:
            seen.add(prompt[:80])
            yield prompt


def build(folder: Path = FOLDER) -> None:
    """Write `train.jsonl` and `test.jsonl`: one `{"id", "domain", "text"}` a line."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in COUNTS.items():
        lines = []
        for domain in DOMAINS:
            source = (
                dialogue_prompts(split) if domain == "dialogue" else document_prompts(domain, split)
            )
            texts = [next(source) for _ in range(count)]
            for number, text in enumerate(texts):
                row = {"id": f"{domain}-{split}-{number}", "domain": domain, "text": text}
                lines.append(json.dumps(row, ensure_ascii=False))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    build()
