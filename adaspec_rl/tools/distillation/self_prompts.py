"""Prompts that the target writes itself, as users might ask it."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from adaspec_rl.data.conversations import USER, Message
from adaspec_rl.data.encoding import rendered
from adaspec_rl.engine.lean_model import LeanModel
from adaspec_rl.tools.distillation.teacher_decoding import Task, write_texts

_MARK = "\x1aTURN\x1a"  # stands for the user's text; no template changes it
_LEAST_WORDS, _LEAST_VARIETY = 4, 0.5
_SPARE = 1.5  # prompts written for each wanted one, since some are rejected
_LONGEST = 256  # tokens


def around_the_user(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The token ids that the chat template puts before and after a first user turn.

    Raises:
        ValueError: there is no template, or it does not quote the user verbatim.
    """
    if not tokenizer.chat_template:
        raise ValueError(
            "self_written needs a tokenizer with a chat template, and the target's has none: set "
            "self_written=0, or choose an instruct model"
        )
    text = rendered(tokenizer, (Message(USER, _MARK),))
    before, found, after = text.partition(_MARK)
    if not found:
        raise ValueError("the chat template hides what the user says: set self_written=0")
    ids = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before, after)]
    return ids[0], ids[1]


def self_written_prompts(
    target: LeanModel,
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    *,
    seed: tuple[int, ...],
    rows: int,
    end_ids: Sequence[int],
    known: Collection[tuple[int, ...]] = (),
) -> list[list[int]]:
    """Up to `count` different prompts through the template, none of them in `known`.

    The target writes the user's turn at temperature 1. Turns that do not end, are short or repeat
    themselves are rejected.
    """
    before, after = around_the_user(tokenizer)
    tasks = [
        Task(before, 1.0, (*seed, number), _LONGEST) for number in range(round(_SPARE * count))
    ]
    written = write_texts(target, tasks, rows=rows, end_ids=end_ids)
    found: dict[tuple[int, ...], None] = {}
    for turn in _turns([text.answer for text in written], end_ids):
        if _is_prompt(tokenizer, turn):
            # `after` starts with the template's own end of a turn.
            prompt = (*before, *turn, *after)
            if prompt not in known:
                found[prompt] = None
    return [list(prompt) for prompt in found][:count]


def _turns(answers: Sequence[list[int]], end_ids: Sequence[int]) -> Iterator[list[int]]:
    for answer in answers:
        if answer[-1] in end_ids:
            yield answer[:-1]


def _is_prompt(tokenizer: PreTrainedTokenizerBase, turn: Sequence[int]) -> bool:
    text = str(tokenizer.decode(list(turn)))
    words = text.split()
    if len(words) < _LEAST_WORDS or set(turn) & set(tokenizer.all_special_ids):
        return False
    if "\ufffd" in text or not any(letter.isalpha() for letter in text):
        return False
    runs = Counter(zip(turn, turn[1:], turn[2:]))
    return len(runs) >= _LEAST_VARIETY * max(1, len(turn) - 2)
