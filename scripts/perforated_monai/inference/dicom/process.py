"""DICOM is decoded in a process of its own, which may die: the case fails, and the others go on."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from .series import Asked, Series

_PACKAGE = Path(__file__).resolve().parents[3]  # where perforated_monai lies
_SECONDS = 300.0  # to load ITK, or to decode a small series
_SECONDS_A_BYTE = 1e-6
_LARGEST_LINE = 64 * 2**20
_SEARCH = 60.0  # in which files are decoded one by one to find which ends the process


def read_series(files: Sequence[Path], asked: Asked | None = None) -> Series:
    """``decode_series`` in the process that all threads share.

    Raises:
        UserError: as ``decode_series``, or when the process ended while it decoded.
    """
    return _reader().read(files, asked or Asked())


def start_reader() -> None:
    """Begin to load ITK, which takes seconds, while other work goes on."""
    _reader().start()


class SeriesReader:
    """One long-lived process that decodes one series at a time, made again when it dies."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = self._late = False

    def start(self) -> None:
        """Start the process, if it does not run."""
        with self._lock:
            self._started()

    def read(self, files: Sequence[Path], asked: Asked) -> Series:
        """See ``read_series``; files are absolute paths."""
        with self._lock:
            size = sum(path.stat().st_size for path in files if path.is_file())
            request = asdict(asked) | {"files": [str(path) for path in files]}
            try:
                return self._volume(request, _SECONDS + size * _SECONDS_A_BYTE)
            except _Died as death:
                name = "" if asked.anonymous or self._late else self._culprit(files)
                what = f"{name} is" if name else "one of its slices is"
                msg = (
                    f"the program that decodes it ended ({death}): {what} damaged. Restore it, or "
                    "convert the series to NIfTI, for example with dcm2niix."
                )
                raise UserError(msg) from None

    def close(self) -> None:
        """End the process."""
        process, self._process, self._ready = self._process, None, False
        if process is None:
            return
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        process.kill()
        process.wait()

    # -- the conversation ------------------------------------------------------------------

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            path = os.pathsep.join(filter(None, (str(_PACKAGE), os.environ.get("PYTHONPATH"))))
            self._process = subprocess.Popen(
                [sys.executable, "-m", "perforated_monai.inference.dicom.program"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # native code prints paths and values of tags
                env=os.environ | {"PYTHONPATH": path, "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"},
            )
        return self._process

    def _volume(self, request: dict[str, Any], seconds: float) -> Series:
        with self._within(seconds):
            answer = self._ask(request)
            if "shape" not in answer:
                raise UserError(answer.get("error", "the series cannot be read. Convert it."))
            array = np.empty(answer["shape"], np.float32)
            self._fill(array.data.cast("B"))
        files = [Path(name) for name in answer["files"]]
        return Series(array, np.array(answer["affine"]), files, answer["notes"])

    def _culprit(self, files: Sequence[Path]) -> str:
        """Name of the first file that ends the process by itself; empty when none is found."""
        with contextlib.suppress(_Died), self._within(_SECONDS):
            self._greet()  # ITK starts slowly where much else runs: that is not time of the search
        end = time.monotonic() + _SEARCH
        for path in sorted(files):
            if time.monotonic() > end:
                break
            try:
                with self._within(_SECONDS):
                    self._ask({"files": [str(path)], "alone": True})
            except _Died:
                return path.name
        return ""

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        process = self._started()
        assert process.stdin is not None
        try:
            self._greet()
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        except OSError:
            raise self._died() from None
        return self._line()

    def _greet(self) -> None:
        """Wait until a new process has loaded what it decodes with."""
        self._started()
        if not self._ready:
            answer = self._line()
            if "ready" not in answer:
                self.close()
                raise UserError(answer.get("error", "DICOM cannot be read here."))
            self._ready = True

    def _line(self) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline(_LARGEST_LINE)
        if not line.endswith(b"\n"):
            raise self._died()
        return json.loads(line)

    def _fill(self, buffer: memoryview) -> None:
        assert self._process is not None and self._process.stdout is not None
        done = 0
        while done < len(buffer):
            count = self._process.stdout.readinto(buffer[done:])  # type: ignore[attr-defined]
            if not count:
                raise self._died()
            done += count

    def _died(self) -> _Died:
        process = self._process
        assert process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        code = process.returncode
        self.close()
        if self._late:
            return _Died("it took too long")
        if code is None or code >= 0:
            return _Died(f"exit code {code}")
        with contextlib.suppress(ValueError):
            return _Died(signal.Signals(-code).name)
        return _Died(f"signal {-code}")

    @contextlib.contextmanager
    def _within(self, seconds: float) -> Iterator[None]:
        """A process that does not answer in time is ended."""
        process, self._late = self._started(), False

        def end() -> None:
            self._late = True
            process.kill()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


class _Died(Exception):
    """The process ended before it had answered; how."""


_shared: dict[int, SeriesReader] = {}
_making = threading.Lock()


def _reader() -> SeriesReader:
    """That of this process: a forked one must not talk to its parent's."""
    with _making:
        if os.getpid() not in _shared:
            _shared.clear()
            _shared[os.getpid()] = reader = SeriesReader()
            atexit.register(reader.close)
        return _shared[os.getpid()]
