"""Standard streams that may go away: what nobody reads is dropped, and the work goes on.

A reader such as ``head -1`` closes its end of a pipe; a service starts with its streams closed; a
log file lies on a disk that is full. None of that is a reason to lose masks or a training.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Forgiving:
    """A text stream around another one; writing to it never fails.

    Characters that the stream's encoding lacks are escaped.

    Attributes:
        lost: the first error, or None; after it nothing is written any more.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.lost: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, or drop, ``text``; its length."""
        try:
            self._write(text)
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            self._drop(error)
        return len(text)

    def flush(self) -> None:
        """Flush what the stream still takes."""
        if self.lost is None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._drop(error)

    def isatty(self) -> bool:
        """Whether a person sees it."""
        return self.lost is None and not self._stream.closed and self._stream.isatty()

    def _write(self, text: str) -> None:
        if self.lost is not None:
            return
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def _drop(self, error: Exception) -> None:
        self.lost = error
        # What is buffered would fail again when the interpreter ends: let it go nowhere.
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def forgive() -> None:
    """Let the standard streams of this process forgive, to its end."""
    _hold_descriptors()
    sys.stdout, sys.stderr = _forgiving(sys.stdout), _forgiving(sys.stderr)


@contextlib.contextmanager
def forgiving() -> Iterator[Forgiving]:
    """The same for a while; gives what stands for stdout."""
    before = sys.stdout, sys.stderr
    forgive()
    stdout, stderr = sys.stdout, sys.stderr
    try:
        yield stdout  # type: ignore[misc]
    finally:
        for stream in (stdout, stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def reader_is_gone(error: Exception | None) -> bool:
    """Whether a stream was lost because nobody wants to read it, and not for want of space."""
    return not isinstance(error, OSError) or error.errno in (errno.EPIPE, errno.EBADF)


def _forgiving(stream: Any) -> Any:
    if isinstance(stream, Forgiving):
        return stream
    # Python has None for a stream that was closed when it started.
    return Forgiving(Path(os.devnull).open("w", encoding="utf-8") if stream is None else stream)


def _hold_descriptors() -> None:
    """Fill closed standard descriptors: the next file opened, a mask, would get their numbers."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
