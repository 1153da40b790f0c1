"""Decodes many texts under one controller; a waiting text takes a row when one becomes free."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from adaspec_rl.control.batch_controller import BatchController, Load
from adaspec_rl.control.observation import CostFeatures, ObservationSpec
from adaspec_rl.control.stream_observer import StreamObserver
from adaspec_rl.decoding.batch import Batch, BatchRound
from adaspec_rl.decoding.round import Round

Features = Callable[[int, float], CostFeatures]  # from the number of rows and their mean context
UNKNOWN = CostFeatures(0.0, 0.0, 0.0)  # until they are set


@dataclass(frozen=True, slots=True)
class Asked:
    """A text to be decoded."""

    prompt: Sequence[int]
    seed: int = 0
    arrives: float = 0.0  # seconds after the start


@dataclass(slots=True)
class Answered:
    """The result for one text. Times are in seconds after the start."""

    tokens: list[int] = field(default_factory=list)
    finished: str = ""  # as `Text.finished`, or `error`
    error: str = ""  # the error message
    first: float = 0.0  # when its first tokens were ready
    ended: float = 0.0
    rounds: int = 0
    accepted: int = 0


@dataclass(slots=True)
class BatchGeneration:
    """All texts, in the order in which they were asked for, and the work they took."""

    answers: list[Answered]
    seconds: float = 0.0  # all of it
    reading_seconds: float = 0.0  # in which the target read prompts
    full_seconds: float = 0.0  # until a row became free and no text was waiting, without reading
    full_tokens: int = 0  # emitted by then
    controller_seconds: float = 0.0  # observations, decisions and allotting
    rounds: int = 0
    prefills: int = 0  # rounds before which prompts were read
    offered: int = 0  # tokens drafted
    verified: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of all texts."""
        return sum(len(answer.tokens) for answer in self.answers)

    @property
    def throughput(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds

    @property
    def full_share_seconds(self) -> float:
        """The seconds of `full_tokens`, with their share of the reading.

        All prompts are read while the batch is full, but texts are still unfinished at its end, and
        more so if rows advance at different speeds.
        """
        return self.full_seconds + self.reading_seconds * self.full_tokens / self.tokens


class RowsObserver:
    """Observations of the rows of a batch, each computed only when somebody asks for it."""

    def __init__(
        self, spec: ObservationSpec, rows: int, batch: Batch, features: Features | None
    ) -> None:
        self._batch = batch
        self._features = features if "cost" in spec.groups else None
        self._streams = [StreamObserver(spec, UNKNOWN) for _ in range(rows)]

    def start(self, row: int, prompt: Sequence[int]) -> None:
        """A text begins in `row` after `prompt`."""
        self._streams[row].start(prompt, partial(self._batch.forecast, row))

    def update(self, rounds: Mapping[int, Round]) -> None:
        """Add a round of some rows."""
        for row, round_ in rounds.items():
            self._streams[row].update(round_)

    def observation(self, rows: Sequence[int]) -> np.ndarray:
        """`[rows, features]` float32."""
        streams = [self._streams[row] for row in rows]
        if self._features is not None:
            costs = self._features(len(rows), self._batch.context(rows))
            for stream in streams:
                stream.set_costs(costs)
        return np.array([stream.observation() for stream in streams])


def generate_batch(
    batch: Batch,
    controller: BatchController,
    asked: Sequence[Asked],
    *,
    features: Features | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> BatchGeneration:
    """Decode all texts; `controller` chooses every round's actions.

    A text takes a row as soon as it has arrived and a row is free; `batch` starts with all rows
    free. A text that cannot be decoded is answered with its error, and the others go on.

    Args:
        features: the cost of decoding, for controllers that observe it.
    """
    run = _Run(batch, controller, asked, features)
    while run.open:
        run.admit()
        if run.request_of:
            run.step()
        elif run.waiting:
            sleep(max(0.0, asked[run.waiting[0]].arrives - run.now))
    run.made.seconds = run.now
    return run.made


class _Run:
    """The state of a batch generation.

    Attributes:
        waiting: the numbers of the texts that have no row yet, by arrival.
        request_of: for each taken row, the number of its text.
    """

    def __init__(
        self,
        batch: Batch,
        controller: BatchController,
        asked: Sequence[Asked],
        features: Features | None,
    ) -> None:
        rows = len(batch.free)
        assert not batch.taken, "a row is taken"
        self._batch, self._controller, self._asked = batch, controller, asked
        spec = controller.observes
        self._observer: RowsObserver | None = None
        if spec is not None:
            self._observer = RowsObserver(spec, rows, batch, features)
        controller.reset(rows)
        self.made = BatchGeneration([Answered() for _ in asked])
        self.waiting = deque(sorted(range(len(asked)), key=lambda n: asked[n].arrives))
        self.request_of: dict[int, int] = {}
        self._began = batch.clock()
        self._reads = False  # whether the next round reads prompts first
        self._learning = 0.0  # seconds spent after the last round, which count towards the next one
        self._allotting = 0.0  # seconds of the current round spent on allotting

    @property
    def open(self) -> bool:
        """Whether any text remains to be decoded."""
        return bool(self.waiting or self.request_of)

    @property
    def now(self) -> float:
        """Seconds after the start."""
        return self._batch.clock() - self._began

    def admit(self) -> None:
        """Give free rows to texts that have arrived."""
        while self.waiting and self._batch.free and self._arrived(self.waiting[0]):
            number = self.waiting.popleft()
            text = self._asked[number]
            try:
                row = self._batch.admit(text.prompt, text.seed)
            except ValueError as error:
                self._fail(number, error)
                continue
            self.request_of[row] = number
            self._controller.admit(row, text.prompt, text.seed)
            self._reads = True
            if self._observer:
                self._observer.start(row, text.prompt)

    def step(self) -> None:
        """Play a round of all rows."""
        rows, clock = sorted(self.request_of), self._batch.clock
        before = clock()
        seen = None
        if self._observer and self._controller.looks:
            seen = self._observer.observation(rows)
        late = sum(self._arrived(number) for number in self.waiting)
        load = Load(len(rows), late, self._batch.context(rows))
        actions = self._controller.decide(rows, seen, load)
        decided = clock()
        self._allotting = 0.0
        allot = self._allot if self._controller.allots else None
        played = self._batch.step(dict(zip(rows, actions)), allot)
        stepped = clock()
        survivors = list(played.rounds)
        if survivors:
            seconds = played.seconds + decided - before + self._learning
            self._controller.observe(survivors, list(played.rounds.values()), seconds)
        if self._observer:
            self._observer.update(played.rounds)
        self._take(played)
        self._learning = clock() - stepped
        self.made.controller_seconds += decided - before + self._allotting + self._learning

    def _allot(self, rows: Sequence[int], survivals: Sequence[Sequence[float]]) -> list[int]:
        before = self._batch.clock()
        allotted = self._controller.allot(rows, survivals)
        self._allotting = self._batch.clock() - before
        return allotted

    def _take(self, played: BatchRound) -> None:
        now, made = self.now, self.made
        made.rounds += 1
        made.reading_seconds += played.reading
        made.prefills += self._reads
        self._reads = False
        emitted = sum(len(round_.tokens) for round_ in played.rounds.values())
        if self.waiting or not self._batch.free:
            made.full_tokens += emitted
            made.full_seconds = now - made.reading_seconds
        made.offered += played.offered
        made.verified += played.verified
        for row, round_ in played.rounds.items():
            answer = made.answers[self.request_of[row]]
            answer.rounds += 1
            answer.accepted += round_.accepted
            answer.first = answer.first or now
            text = self._batch.text(row)
            if text.finished is not None:
                answer.tokens, answer.finished, answer.ended = text.tokens, text.finished, now
                del self.request_of[row]
                self._batch.leave(row)
        for row, error in played.errors.items():
            self._fail(self.request_of.pop(row), error)

    def _fail(self, number: int, error: Exception) -> None:
        answer = self.made.answers[number]
        answer.finished, answer.error, answer.ended = "error", str(error), self.now

    def _arrived(self, number: int) -> bool:
        return self._asked[number].arrives <= self.now
