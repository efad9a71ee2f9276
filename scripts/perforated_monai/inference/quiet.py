"""What other libraries say about their own internals, kept from the user for a while.

Warning filters and loggers belong to the process, and cases are read in threads. So warnings are
changed under one lock, and a logger stays silent for the calling thread alone.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator

_FILTERS = threading.RLock()


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Show no warnings; one thread at a time, so that each puts back what it replaced."""
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def without_messages(logger: logging.Logger) -> Iterator[None]:
    """Drop what the calling thread logs there below a warning; other threads log as before."""
    thread = threading.get_ident()

    def others(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or threading.get_ident() != thread

    logger.addFilter(others)
    try:
        yield
    finally:
        logger.removeFilter(others)
