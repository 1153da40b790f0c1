"""Whole decoders, whoever wrote them: how they are timed beside each other."""

import gc
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rich.progress import track


@dataclass(frozen=True, slots=True)
class Made:
    """One text, and what it took. Its first tokens come with the reading of the prompt."""

    tokens: list[int]
    first: int  # of them, those that the first pass after the prompt gave
    reading: float  # seconds until these were there
    seconds: float  # until all were
    read: float = 0.0  # bytes of weights and caches that all later passes must read


Run = Callable[[list[int], int], Made]  # prompt, seed


@dataclass(frozen=True, slots=True)
class Method:
    """One way to decode at one setting."""

    engine: str
    precision: str
    way: str  # plain, or what drafts
    setting: str
    run: Run

    @property
    def family(self) -> str:
        """What it is called; its settings are tried, and the best one counts."""
        return f"{self.engine} {self.precision}, {self.way}"


class Timing:
    """What a method did: on each prompt, the text and the median of its passes."""

    def __init__(self, passes: Sequence[Sequence[Made]]) -> None:
        """`passes` are by prompt."""
        self.texts = [made[0].tokens for made in passes]
        self.steady = all(each.tokens == made[0].tokens for made in passes for each in made)
        self._late = sum(len(made[0].tokens) - made[0].first for made in passes)
        self._decoding = sum(statistics.median(m.seconds - m.reading for m in p) for p in passes)
        self._seconds = sum(statistics.median(m.seconds for m in p) for p in passes)
        self._read = sum(made[0].read for made in passes)

    @property
    def speed(self) -> float:
        """Tokens a second, without the reading of prompts: sum over sum."""
        return self._late / self._decoding if self._late else 0.0

    @property
    def whole_speed(self) -> float:
        """Tokens a second, the reading of prompts included."""
        return sum(map(len, self.texts)) / self._seconds

    @property
    def token_bytes(self) -> float:
        """Bytes that had to be read for a token."""
        return self._read / max(1, self._late)

    @property
    def bytes_per_second(self) -> float:
        """Of what had to be read."""
        return self._read / self._decoding


def measure(
    methods: Sequence[Method], prompts: Sequence[list[int]], passes: int, what: str
) -> list[Timing]:
    """Every method on every prompt, interleaved, the order rotating, after an uncounted prompt."""
    found: list[list[list[Made]]] = [[[] for _ in prompts] for _ in methods]
    for method in methods:
        method.run(prompts[0], 0)
    turns = [(number, n) for n in range(passes) for number in range(len(prompts))]
    for number, n in track(turns, what):
        turn = (number + n) % len(methods)
        for index in (*range(turn, len(methods)), *range(turn)):
            gc.collect(0)
            gc.disable()
            try:
                made = methods[index].run(prompts[number], number)
            finally:
                gc.enable()
            found[index][number].append(made)
    return [Timing(passes) for passes in found]


def families(methods: Iterable[Method]) -> dict[str, list[Method]]:
    """The settings of each family."""
    found: dict[str, list[Method]] = {}
    for method in methods:
        found.setdefault(method.family, []).append(method)
    return found


def tuned(methods: Sequence[Method], prompts: Sequence[list[int]]) -> list[Method]:
    """Each family's fastest setting on `prompts`."""
    grouped = families(methods)
    tried = [method for members in grouped.values() if len(members) > 1 for method in members]
    if not tried:
        return list(methods)
    speeds = {id(m): t.speed for m, t in zip(tried, measure(tried, prompts, 1, "tuning"))}
    return [max(members, key=lambda m: speeds.get(id(m), 0.0)) for members in grouped.values()]
