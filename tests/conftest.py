"""What holds for all tests."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _logging_stays_as_it_was() -> Iterator[None]:
    """Commands run in this process set levels, and log to streams that a test closes."""
    root = logging.getLogger()
    loggers = [root, logging.getLogger("adaspec_rl")]
    handlers, levels = set(root.handlers), [logger.level for logger in loggers]
    yield
    for handler in set(root.handlers) - handlers:
        if type(handler) in (logging.StreamHandler, logging.FileHandler):
            root.removeHandler(handler)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
