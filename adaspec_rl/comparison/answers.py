"""Answers to problems: each text ends with the round that completes its answer."""

from collections.abc import Callable, Sequence

from adaspec_rl.comparison.accuracy import Task, Written, log_likelihood
from adaspec_rl.control.controller import Controller
from adaspec_rl.decoding.batch import Batch
from adaspec_rl.decoding.round import FALLBACK, Action
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.text import DecodingRules
from adaspec_rl.decoding.verification import Rule
from adaspec_rl.pairs.pair import Pair

TAIL = 48  # last tokens of a text that are searched for the end of an answer
Ended = Callable[[str], bool]  # whether a text's last part ends its answer
Progress = Callable[[int], None]  # called with the number of finished texts


def answered(tail: str) -> bool:
    """Whether a word problem's text is complete: its answer line has ended."""
    _, begun, rest = tail.partition("Answer:")
    return bool(begun) and "\n" in rest


def write_answers(
    pair: Pair,
    prompts: Sequence[Sequence[int]],
    rule: Rule,
    length: int,
    *,
    max_new_tokens: int,
    rows: int,
    ended: Ended = answered,
    progress: Progress = lambda done: None,
) -> list[tuple[list[int], float]]:
    """The greedy text after each prompt, and its distance from the target summed over its tokens.

    The first drafter drafts `length` tokens a round; 0 is plain decoding. `rows` texts are decoded
    side by side, which the judge rule does not support.
    """
    action = Action(length) if length else FALLBACK
    rules = DecodingRules(frozenset(pair.eos_ids), max_new_tokens, Sampling(), rule)
    batch = Batch(pair.target, pair.drafters, min(rows, len(prompts)), rules=rules)
    waiting = list(enumerate(prompts))[::-1]
    numbers: dict[int, int] = {}  # by row
    distances = [0.0] * len(prompts)
    found: dict[int, list[int]] = {}
    while waiting or numbers:
        while waiting and batch.free:
            number, prompt = waiting.pop()
            numbers[batch.admit(prompt)] = number
        played = batch.step(dict.fromkeys(numbers, action))
        for error in played.errors.values():
            raise error
        for row, round_ in played.rounds.items():
            number, text = numbers[row], batch.text(row)
            distances[number] += round_.distance
            if text.finished or ended(pair.decode(text.tokens[-TAIL:])):
                found[number] = text.tokens
                batch.leave(row)
                del numbers[row]
                progress(len(found))
    return [(found[number], distances[number]) for number in range(len(prompts))]


def write_one_by_one(
    pair: Pair,
    prompts: Sequence[Sequence[int]],
    controller: Controller,
    *,
    max_new_tokens: int,
    ended: Ended = answered,
    progress: Progress = lambda done: None,
) -> list[tuple[list[int], float]]:
    """Like `write_answers`, one text at a time, with a controller that observes nothing."""
    assert controller.observes is None
    session = pair.session(max_new_tokens=max_new_tokens, sampling=Sampling())
    found = []
    for number, prompt in enumerate(prompts, 1):
        session.start(prompt, signals=False)
        controller.reset(prompt)
        distance = 0.0
        while session.finished is None:
            played = session.step(controller.decide(None))
            controller.observe(played)
            distance += played.distance
            if ended(pair.decode(session.tokens[-TAIL:])):
                break
        found.append((session.tokens, distance))
        progress(number)
    return found


def judge_answers(
    pair: Pair,
    tasks: Sequence[Task],
    prompts: Sequence[Sequence[int]],
    texts: Sequence[tuple[list[int], float]],
    likely: dict[tuple[int, ...], float],
) -> dict[str, Written]:
    """The judged texts by task; `likely` caches log-likelihoods by prompt and text."""
    found = {}
    for task, prompt, (tokens, distance) in zip(tasks, prompts, texts):
        key = (len(prompt), *prompt, *tokens)
        if key not in likely:
            likely[key] = log_likelihood(pair.target, prompt, tokens)
        text = pair.decode(tokens)
        answer, solved = task.answer_in(text), task.solved_by(text)
        found[task.id] = Written(tuple(tokens), answer, solved, distance, likely[key])
    return found
