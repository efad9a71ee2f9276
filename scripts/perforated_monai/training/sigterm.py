"""SIGTERM ends a run at once, with exit code 143; what it was before comes back after the run."""

from __future__ import annotations

import signal
import threading
from typing import Any


class LeaveOnSigterm:
    """``install`` while a run trains, ``restore`` behind it; only the main thread can."""

    def __init__(self) -> None:
        self._before: Any = None

    def install(self) -> None:
        """Leave by ``SystemExit``: checkpoints are atomic, so any line keeps the last epoch's."""
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, _leave)

    def restore(self) -> None:
        """Put the former handler back, where there was one."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None


def _leave(*_: Any) -> None:
    raise SystemExit(143)
