"""Problems with answers that can be checked: generated word problems, and GSM8K's own."""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from adaspec_rl.data.corpus import DIALOGUE_SEEDS
from adaspec_rl.data.json_lines import read_objects
from adaspec_rl.data.word_problems import word_problem

Answer = tuple[str, ...]  # the numbers of an answer, in order
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Problem:
    """A question, its right answer, and how to read an answer from a text."""

    id: str
    text: str  # the prompt
    answer: Answer
    read: Callable[[str], Answer | None]  # None: no answer in the text

    def answer_in(self, text: str) -> Answer | None:
        """The answer in the text written after the prompt; None: there is none."""
        return self.read(text)

    def solved_by(self, text: str) -> bool:
        """Whether the text's answer is right."""
        return self.read(text) == self.answer


def word_problems(count: int, split: str = "test") -> list[Problem]:
    """The first `count` problems of a split, each after a worked problem as in embedded prompts.

    No language model was fitted on them.
    """
    return list(islice(_word_problems(split), count))


def _word_problems(split: str) -> Iterator[Problem]:
    rng = random.Random(1000 + DIALOGUE_SEEDS[split])  # as for the embedded prompts
    number = 0
    while True:
        shown, worked = word_problem(rng)
        asked, right = word_problem(rng)
        text = f"Question: {shown}\n{worked}\n\nQuestion: {asked}\n"
        answer = stated_answer(right)
        assert answer is not None
        yield Problem(f"dialogue-{split}-{number}", text, answer, stated_answer)
        number += 1


def stated_answer(text: str) -> Answer | None:
    """The numbers of the first line that begins with "Answer:", before any further question."""
    found = re.search(r"^Answer:(.*)$", text.split("\nQuestion:")[0], re.M)
    return _numbers(found[1]) if found else None


def gsm8k_problems(path: Path) -> list[Problem]:
    """The problems in GSM8K's own files: objects with a `question` and an `answer`.

    The answer ends with a line such as `#### 42`.

    Raises:
        ValueError: there is no such file, or a line is not such an object.
    """
    problems = []
    for number, row in read_objects(path):
        question, answer = row.get("question"), row.get("answer")
        if not isinstance(question, str) or not isinstance(answer, str) or "####" not in answer:
            raise ValueError(
                f"{path}, line {number}: expected a question and an answer that ends '#### NUMBER'"
            )
        right = _numbers(answer.rpartition("####")[2])[:1]
        problems.append(Problem(f"gsm8k-{number}", question, right, last_number))
    return problems


def last_number(text: str) -> Answer | None:
    """A model's answer to a GSM8K problem: the number after `####`, else the last number."""
    _, marked, after = text.partition("####")
    found = _numbers(after)[:1] if marked else _numbers(text)[-1:]
    return found or None


def _numbers(text: str) -> Answer:
    """All numbers, without thousands separators and without trailing zeros after the point."""
    found = (item.replace(",", "") for item in _NUMBER.findall(text))
    return tuple(item.rstrip("0").rstrip(".") if "." in item else item for item in found)
