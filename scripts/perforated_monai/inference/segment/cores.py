"""The machine's cores, shared between cases: several with a part each, or one with all."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch


class Turns:
    """Gives threads that run a network their turn and their number of cores.

    Small volumes in several threads with a core each take less time than one after another with
    all cores: nothing waits while Python, the disk or a last small layer has one core busy.

    Args:
        slots: how many may run at a time.
    """

    def __init__(self, slots: int) -> None:
        self.all = torch.get_num_threads()
        self.slots, self.each = slots, max(self.all // slots, 1)
        self._running = self._waiting_alone = 0
        self._changed = threading.Condition()

    def begin_thread(self) -> None:
        """To be called first in each thread that takes turns."""
        torch.set_num_threads(self.each)

    def end(self) -> None:
        """Give the calling thread, and threads to come, all cores again."""
        torch.set_num_threads(self.all)

    @contextlib.contextmanager
    def turn(self, alone: bool = False) -> Iterator[None]:
        """Wait for a slot, or for all of them; no later thread overtakes one that waits for all."""
        with self._changed:
            if alone:
                self._waiting_alone += 1
                self._changed.wait_for(lambda: self._running == 0)
                self._waiting_alone -= 1
            else:
                self._changed.wait_for(
                    lambda: self._running < self.slots and not self._waiting_alone
                )
            taken = self.slots if alone else 1
            self._running += taken
        if alone:
            torch.set_num_threads(self.all)
        try:
            yield
        finally:
            if alone:
                torch.set_num_threads(self.each)
            with self._changed:
                self._running -= taken
                self._changed.notify_all()
