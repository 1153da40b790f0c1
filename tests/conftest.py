"""What holds for all tests."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _no_handlers_stay() -> Iterator[None]:
    """Commands run in this process set up logging to streams that a test closes."""
    root = logging.getLogger()
    before = set(root.handlers)
    yield
    for handler in set(root.handlers) - before:
        if type(handler) in (logging.StreamHandler, logging.FileHandler):
            root.removeHandler(handler)
