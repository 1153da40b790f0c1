"""Progress: a bar on a terminal, a few lines in a log."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from adaspec_rl.console import duration, progress, say
from tests import PROJECT


class Clock:
    """A clock that the test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def log_of(total: float | None, times: list[tuple[float, float]], what: str = "work") -> list[str]:
    """The lines of work that reports `done` at each `(second, done)`."""
    file, clock = io.StringIO(), Clock()
    with progress(Console(file=file, width=40), what, clock=clock) as update:
        for second, done in times:
            clock.now = 100.0 + second
            update(done, total)
    return file.getvalue().splitlines()


def test_a_log_gets_a_line_soon_then_every_half_minute_and_one_at_the_end():
    seconds = [(float(second), float(second)) for second in range(0, 101)]
    assert log_of(100, seconds) == [
        "work: 3% done, 1 min 37 s left",
        "work: 33% done, 1 min 7 s left",
        "work: 63% done, 37 s left",
        "work: 93% done, 7 s left",
        "work: done in 1 min 40 s",
    ]


def test_time_left_goes_by_the_work_of_this_run_alone():
    resumed = [(0.0, 80.0), (10.0, 85.0)]  # 80 were there before
    assert log_of(100, resumed)[0] == "work: 85% done, 30 s left"


def test_a_total_may_be_unknown_or_come_later():
    assert log_of(None, [(0.0, 0.0), (5.0, 1234.0)])[0] == "work: 1,234 done"


def test_what_takes_no_time_leaves_no_line():
    assert log_of(4, [(0.1, 4.0)]) == []


def test_names_and_status_are_shown_as_they_are():
    file, clock = io.StringIO(), Clock()
    with progress(Console(file=file), "[/oops]", clock=clock) as update:
        clock.now += 5
        update(1, 2, status="[bold]")
    assert file.getvalue().startswith("[/oops]: 50% done, [bold]")
    terminal = io.StringIO()
    with progress(Console(file=terminal, force_terminal=True, width=80), "[/oops]") as update:
        update(1, 2, status="[bold]")
    assert "[/oops]" in terminal.getvalue() and "[bold]" in terminal.getvalue()


def test_an_interruption_says_how_far_the_work_was():
    file, clock = io.StringIO(), Clock()
    shown = progress(Console(file=file), "work", clock=clock)
    with pytest.raises(KeyboardInterrupt), shown as update:
        update(1, 4)
        clock.now += 2
        raise KeyboardInterrupt
    assert file.getvalue() == "work: stopped at 25% after 2 s\n"


def test_terminals_get_bars_also_one_within_another():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100)
    with progress(console, "outer") as outer:
        for done in range(2):
            with progress(console, "inner") as inner:
                inner(3, 4)
            outer(done + 1, 3)  # ends short of its total, and is shown as done all the same
    shown = file.getvalue()
    assert "outer" in shown and "inner" in shown
    assert "100%" in shown.splitlines()[-2]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (3900, "1 h 5 min")],
)
def test_durations_are_for_people(seconds, text):
    assert duration(seconds) == text


NAMES = st.text("[]/\\\\:ab$ ", min_size=1).map(lambda text: f"<{text}>")


@given(NAMES)
def test_names_are_printed_as_they_are(name):
    file = io.StringIO()
    say(Console(file=file), f"policy: {name}")
    assert file.getvalue() == f"policy: {name}\n"


def test_nothing_in_the_package_prints_words_that_could_be_markup():
    for path in (PROJECT / "adaspec_rl").rglob("*.py"):
        found = re.findall(r'console\.print\(\s*f?"', path.read_text())
        assert not found, f"{path} prints a text as markup: use console.say"
