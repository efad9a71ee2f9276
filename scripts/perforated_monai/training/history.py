"""The history of a run: one event a line, and the picture of Dice per epoch made from it."""

from __future__ import annotations

import json
import os
from typing import Any

from ..errors import UserError
from ..files import atomic, cure_of
from .run_folder import RunFolder


class History:
    """Events of a run, appended epoch by epoch; TensorBoard scalars beside it where installed.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder, self.path = folder, folder.history_file
        self._pending: list[dict[str, Any]] = []
        self._board: Any = None

    def add(self, event: dict[str, Any], first: bool = False) -> None:
        """Keep an event until ``flush``; ``first`` puts it before the others of its epoch."""
        self._pending.insert(0 if first else len(self._pending), event)

    def flush(self) -> None:
        """Append the kept events to the file, synced to disk.

        Raises:
            UserError: when the disk is full or the folder is not writable.
        """
        text = "".join(json.dumps(event) + "\n" for event in self._pending)
        try:
            with self.path.open("a", encoding="utf-8") as handle:
                handle.write(text)
                handle.flush()
                os.fsync(handle.fileno())
        except OSError as error:
            msg = f"Cannot write {self.path}: {error.strerror or error}. {cure_of(error)}."
            raise UserError(msg) from error
        for event in self._pending:
            self._to_board(event)
        self._pending = []

    def size(self) -> int:
        """Bytes written so far."""
        return self.path.stat().st_size if self.path.exists() else 0

    def cut(self, size: int) -> None:
        """Cut the file to ``size`` bytes: a killed run may have written after its checkpoint."""
        self._pending = []
        if self.size() > size:
            os.truncate(self.path, size)

    def draw(self) -> None:
        """Draw Dice per epoch with a vertical line at each growth, where matplotlib is there."""
        try:
            from .dice_plot import draw_dice
        except ImportError:
            return
        with atomic(self.folder.dice_picture) as temporary:
            draw_dice(self.folder.history(), temporary)

    def _to_board(self, event: dict[str, Any]) -> None:
        if event["event"] != "epoch":
            return
        if self._board is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                self._board = False
            else:
                # A resumed run forgets what was shown of epochs after its checkpoint.
                folder = str(self.folder.tensorboard)
                self._board = SummaryWriter(folder, purge_step=event["epoch"])
        if self._board:
            for name in ("loss", "dice", "dendrite_sets", "parameters"):
                if event[name] is not None:
                    other = event.get("metric", "Dice") if name == "dice" else "Dice"
                    label = name if other == "Dice" else other
                    self._board.add_scalar(label, event[name], event["epoch"])
            self._board.add_scalar("lr", event["lr"][0], event["epoch"])
            self._board.flush()
