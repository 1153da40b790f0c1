"""Where tables and progress bars go."""

from rich.console import Console

LOG_WIDTH = 120  # columns of a file


def standard_output() -> Console:
    """A terminal, as wide as it is, or a file, wide enough that no table is cut to size."""
    console = Console()
    return console if console.is_terminal else Console(width=LOG_WIDTH)
