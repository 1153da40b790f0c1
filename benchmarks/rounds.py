"""What a round of decoding costs beyond its forward passes, and what an idle drafter costs."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from forwards import synchronize, uncollected
from rich.console import Console
from rich.progress import track
from rich.table import Table

from adaspec_rl.decoding.drafters import DraftModel
from adaspec_rl.decoding.round import FALLBACK, Action
from adaspec_rl.decoding.session import LiveSession
from adaspec_rl.engine.language_model import LanguageModel
from adaspec_rl.pairs.pair import Pair

LENGTHS = (1, 2, 4, 8)
FALLBACKS = 50  # per text


class Timed:
    """A model that adds up the seconds of its forward passes, each synchronised."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def extend(self, *arguments: Any, **options: Any) -> Any:
        return self._timed(self._model.extend, arguments, options)

    def forward(self, *arguments: Any, **options: Any) -> Any:
        return self._timed(self._model.forward, arguments, options)  # type: ignore[attr-defined]

    def _timed(self, call: Callable[..., Any], arguments: Any, options: Any) -> Any:
        synchronize(self._model.device)
        began = time.perf_counter()
        result = call(*arguments, **options)
        synchronize(self._model.device)
        self.seconds += time.perf_counter() - began
        return result


def draft_model(pair: Pair) -> LanguageModel:
    drafter = pair.drafters[0]
    assert isinstance(drafter, DraftModel)
    return drafter.model


@dataclass(frozen=True, slots=True)
class Overhead:
    """Medians over rounds of one draft length: milliseconds, and the share beyond forwards."""

    round: float
    forwards: float
    share: float


def time_overhead(pair: Pair, prompts: Sequence[list[int]]) -> dict[int, Overhead]:
    """What rounds cost beyond their forward passes, by draft length (0: the fallback)."""
    target, drafter = Timed(pair.target), Timed(draft_model(pair))
    session = LiveSession(
        target,  # type: ignore[arg-type]
        [DraftModel(drafter, target.vocab_size)],  # type: ignore[arg-type]
        max_new_tokens=160,
    )
    found: dict[int, list[tuple[float, float]]] = {length: [] for length in (0, *LENGTHS)}
    lengths = list(found)
    for prompt in track(prompts, "round overhead"):
        session.start(prompt)
        session.step(Action(1))  # this round reads the prompt
        with uncollected():
            for number in range(len(prompt), len(prompt) + 10_000):
                if session.finished is not None:
                    break
                length = lengths[number % len(lengths)]
                before = target.seconds + drafter.seconds
                round_ = session.step(Action(length) if length else FALLBACK)
                forwards = target.seconds + drafter.seconds - before
                if round_.drafted == length:
                    found[length].append((round_.seconds * 1000, forwards * 1000))
    return {
        length: Overhead(
            round=statistics.median(whole for whole, _ in rows),
            forwards=statistics.median(forwards for _, forwards in rows),
            share=statistics.median(1 - forwards / whole for whole, forwards in rows),
        )
        for length, rows in found.items()
    }


def show_overhead(overhead: dict[int, Overhead]) -> None:
    table = Table(title="Rounds, ms", title_justify="left")
    for name in ("draft length", "round", "its forwards", "overhead"):
        table.add_column(name, justify="right")
    for length, found in overhead.items():
        row = (f"{found.round:.3f}", f"{found.forwards:.3f}", f"{found.share:.1%}")
        table.add_row(str(length), *row)
    Console().print(table)


def time_fallbacks(pair: Pair, prompt: list[int], count: int) -> tuple[list[float], list[float]]:
    """Seconds of about `count` fallbacks with a drafter loaded, and of steps without a drafter.

    Two sessions share the target and decode the same text one after the other, in alternating
    order; entry by entry, both took the same step at the same position. They do not alternate
    within a text, because a session must read its text again after its model has read another.
    """
    with_drafter, without = (
        LiveSession(pair.target, drafters, max_new_tokens=FALLBACKS + 2)
        for drafters in (pair.drafters, [])
    )
    seconds: dict[int, list[float]] = {id(with_drafter): [], id(without): []}
    with uncollected():
        for number in range(max(1, round(count / FALLBACKS))):
            order = (with_drafter, without) if number % 2 else (without, with_drafter)
            for session in order:
                session.start(prompt)
                session.step(FALLBACK)
                for _ in range(FALLBACKS):
                    began = time.perf_counter()
                    session.step(FALLBACK)
                    seconds[id(session)].append(time.perf_counter() - began)
    assert with_drafter.tokens == without.tokens
    return seconds[id(with_drafter)], seconds[id(without)]
