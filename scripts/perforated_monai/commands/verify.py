"""What the `verify` and `pack` commands print."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from types import FrameType

from ..bundle.verify.verify import verify
from ..rules import ERROR, WARNING
from .check import print_result


def verify_target(target: str, trust: bool) -> int:
    """Verify, print the findings and the verdict; 1 when the bundle is refused."""
    start = time.perf_counter()
    with _terminated_like_interrupted():
        verdict = verify(target)
    severity = WARNING if trust else ERROR
    foreign = [replace(finding, severity=severity) for finding in verdict.foreign]
    word = "verified"
    if verdict.broken:
        word = "refused"
    elif foreign:
        word = "verified, foreign code trusted" if trust else "refused; --trust goes on"
    counted = f"{verdict.name}, {verdict.files} files, {word}"
    return print_result([*verdict.findings, *foreign], counted, time.perf_counter() - start)


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM unwinds, so that the temporary folder goes as it does on Ctrl-C."""

    def leave(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
