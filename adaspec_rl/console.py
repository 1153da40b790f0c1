"""Output of tables and progress to a terminal, or to a file that people read later."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

LOG_WIDTH = 120  # columns of a file
FIRST_LINE, LINE_EVERY = 3.0, 30.0  # seconds of work before a log's first line, and between lines
WORTH_A_LINE = 1.0  # seconds: shorter work leaves no line in a log
SPEED_PERIOD = 300.0  # seconds of updates from which a bar estimates the time left


def standard_output() -> Console:
    """A console for a terminal at its own width, or for a file at a width that fits every table."""
    console = Console()
    return console if console.is_terminal else Console(width=LOG_WIDTH)


def say(console: Console, text: str) -> None:
    """Print plain text, in which brackets (as in names and paths) are not markup."""
    console.print(Text(text), soft_wrap=True)


class Update(Protocol):
    """Reports to a `progress` how far the work is."""

    def __call__(self, done: float, total: float | None, status: str = "") -> None:
        """Report `done` of `total`, in any unit; `total` is None while it is unknown.

        `status` is shown beside the bar or after the line.
        """
        ...


@contextmanager
def progress(
    console: Console, what: str, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[Update]:
    """Show how far `what` is while the block runs, and how long it will take.

    A terminal gets a bar. A file gets a line after the first seconds of work, then at most one
    every half minute, and one at the end. Calls may follow one another or be nested.

    >>> with progress(console, "recording") as update:
    ...     for done, prompt in enumerate(prompts, 1):
    ...         record(prompt)
    ...         update(done, len(prompts))
    """
    shown = _Bar(console, what) if console.is_terminal else _Lines(console, what, clock)
    try:
        yield shown.update
    except BaseException:
        shown.close(finished=False)
        raise
    shown.close(finished=True)


def part_of(
    progress: Callable[[float], None], before: float, share: float
) -> Callable[[float], None]:
    """Progress within a part of the work: the part begins at `before` and has this `share`."""
    return lambda done: progress(before + done * share)


def duration(seconds: float) -> str:
    """A readable duration: `12 s`, `3 min 20 s` or `1 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class _Bar:
    """A bar on a terminal."""

    def __init__(self, console: Console, what: str) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=console,
            refresh_per_second=4,
            speed_estimate_period=SPEED_PERIOD,
        )
        self._progress.start()
        self._task = self._progress.add_task(what, total=None, status="")

    def update(self, done: float, total: float | None, status: str = "") -> None:
        self._progress.update(self._task, completed=done, total=total, status=status)

    def close(self, finished: bool) -> None:
        if finished:
            total = self._progress.tasks[0].total or 1
            self._progress.update(self._task, completed=total, total=total)
        self._progress.stop()


class _Lines:
    """Lines in a file."""

    def __init__(self, console: Console, what: str, clock: Callable[[], float]) -> None:
        self._console, self._what, self._clock = console, what, clock
        self._began = clock()
        self._next = self._began + FIRST_LINE
        self._first: tuple[float, float] | None = None  # time and amount of the first update
        self._share = ""

    def update(self, done: float, total: float | None, status: str = "") -> None:
        now = self._clock()
        self._first = self._first or (now, done)
        self._share = f"{min(1.0, done / total):.0%}" if total else f"{done:,.0f}"
        if now < self._next:
            return
        self._next = now + LINE_EVERY
        parts = [f"{self._share} done", self._left(total, done), status]
        self._print(", ".join(filter(None, parts)))

    def close(self, finished: bool) -> None:
        taken = self._clock() - self._began
        if not finished:
            at = f" at {self._share}" if self._share else ""
            self._print(f"stopped{at} after {duration(taken)}")
        elif taken >= WORTH_A_LINE:
            self._print(f"done in {duration(taken)}")

    def _left(self, total: float | None, done: float) -> str:
        assert self._first is not None
        since, before = self._first
        if not total or done <= before:
            return ""
        each = (self._clock() - since) / (done - before)
        return f"{duration(each * max(0.0, total - done))} left"

    def _print(self, text: str) -> None:
        say(self._console, f"{self._what}: {text}")
