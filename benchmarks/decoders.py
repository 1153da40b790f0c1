"""Timing whole decoders, our own and others', side by side."""

import gc
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rich.progress import track


@dataclass(frozen=True, slots=True)
class Made:
    """One text and its costs. The first tokens come from the pass that reads the prompt."""

    tokens: list[int]
    first: int  # how many of them came first, with the prompt
    reading: float  # seconds until the first tokens came
    seconds: float  # until all tokens came
    read: float = 0.0  # bytes of weights and caches that all later passes must read


Run = Callable[[list[int], int], Made]  # prompt, seed


@dataclass(frozen=True, slots=True)
class Method:
    """One way to decode at one setting."""

    engine: str
    precision: str
    way: str  # plain, or the kind of drafter
    setting: str
    run: Run

    @property
    def family(self) -> str:
        """The method's name; of its settings, the best one counts."""
        return f"{self.engine} {self.precision}, {self.way}"


class Timing:
    """A method's results: on each prompt, the text and the median time of its passes."""

    def __init__(self, passes: Sequence[Sequence[Made]]) -> None:
        """`passes` has a list for each prompt."""
        self.texts = [made[0].tokens for made in passes]
        self.steady = all(each.tokens == made[0].tokens for made in passes for each in made)
        self._late = sum(len(made[0].tokens) - made[0].first for made in passes)
        self._decoding = sum(statistics.median(m.seconds - m.reading for m in p) for p in passes)
        self._seconds = sum(statistics.median(m.seconds for m in p) for p in passes)
        self._read = sum(made[0].read for made in passes)

    @property
    def speed(self) -> float:
        """Tokens per second without the reading of prompts: sum over sum."""
        return self._late / self._decoding if self._late else 0.0

    @property
    def whole_speed(self) -> float:
        """Tokens per second, including the reading of prompts."""
        return sum(map(len, self.texts)) / self._seconds

    @property
    def token_bytes(self) -> float:
        """Bytes that had to be read per token."""
        return self._read / max(1, self._late)

    @property
    def bytes_per_second(self) -> float:
        """Bytes per second that had to be read."""
        return self._read / self._decoding


def measure(
    methods: Sequence[Method], prompts: Sequence[list[int]], passes: int, what: str
) -> list[Timing]:
    """Time every method on every prompt, interleaved in random order, after a warm-up prompt."""
    found: list[list[list[Made]]] = [[[] for _ in prompts] for _ in methods]
    for method in methods:
        method.run(prompts[0], 0)
    turns = [number for _ in range(passes) for number in range(len(prompts))]
    order = np.random.default_rng(0)
    for number in track(turns, what):
        for index in order.permutation(len(methods)).tolist():
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
