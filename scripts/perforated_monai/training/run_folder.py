"""``RunFolder``: every file of a training run, by its place and its meaning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import UserError
from ..files import is_temporary, refuse_foreign
from .checkpoints import Checkpoints
from .provenance import Provenance


class RunFolder:
    """The folder of one run: what lies in it, who may write to it, and how it is read.

    Reading makes nothing; ``take`` makes the folder and locks it for one process.

    Args:
        path: the run's ``output_dir``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.json"  # what the run was made from
        self.history_file = self.path / "history.jsonl"  # one event a line
        self.checkpoints = Checkpoints(self.path / "checkpoints")
        self.tensorboard = self.path / "tensorboard"
        self.tracker = self.path / "tracker"  # perforatedai's own files
        self.dice_picture = self.path / "dice.png"
        self.page = self.path / "report.md"
        self._lock = FileLock(self.path / ".lock")

    # -- one writer ------------------------------------------------------------------------

    def take(self) -> None:
        """Make the folder, lock it for this process, and remove what a killed run left half-done.

        Raises:
            UserError: when another run holds it, it cannot be written, or files lie there that a
                run would replace and that are no run's.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            msg = f"Another run is writing {self.path}: wait for it or choose another output_dir."
            raise UserError(msg) from None
        except OSError as error:
            msg = f"output_dir {self.path} cannot be written ({error.strerror}): choose another."
            raise UserError(msg) from None
        try:
            self._refuse_other_content()
        except UserError:
            self.release()
            raise
        for half in self.path.rglob(".*.tmp"):  # nothing else holds them while we hold the lock
            if is_temporary(half.name):
                half.unlink()

    def _refuse_other_content(self) -> None:
        refuse_foreign(self.config_file, "run's configuration", ['"manifest_sha256"', '"versions"'])
        if self.config_file.exists() or self.checkpoints.any_whole():
            return  # a run's; whether it is this one is asked later
        rest = [self.history_file, self.checkpoints.folder, self.tracker, self.dice_picture]
        foreign = [path.name for path in rest if path.exists() and not _is_empty(path)]
        if foreign:
            msg = (
                f"output_dir {self.path} holds {', '.join(foreign)} without a run's config.json: "
                "they are kept. Choose another output_dir."
            )
            raise UserError(msg)

    def release(self) -> None:
        """Let others take the folder; nothing happens where this process does not hold it."""
        self._lock.release()

    # -- what a reader asks ----------------------------------------------------------------

    def history(self) -> list[dict[str, Any]]:
        """Every event so far, in order; a line that is only half written is left out.

        Raises:
            UserError: for a file that is missing or holds other lines.
        """
        try:
            lines = self.history_file.read_text(encoding="utf-8").splitlines(keepends=True)
            events = [json.loads(line) for line in lines if line.endswith("\n")]
        except (OSError, ValueError, RecursionError) as error:
            msg = f"{self.history_file} cannot be read ({type(error).__name__}). Restore it."
            raise UserError(msg) from None
        if not all(isinstance(event, dict) and "event" in event for event in events):
            msg = f"{self.history_file} must hold one event a line; it is changed. Restore it."
            raise UserError(msg)
        return events

    @property
    def finished(self) -> bool:
        """Whether the training came to its end."""
        return self.history_file.is_file() and any(
            event["event"] == "complete" for event in self.history()
        )

    def provenance(self) -> Provenance:
        """Configuration, versions and hashes, as they were written when the run started.

        Raises:
            UserError: when ``config.json`` is missing or damaged.
        """
        return Provenance.read(self.config_file)


def _is_empty(path: Path) -> bool:
    """Whether nothing is lost when it is written anew."""
    return not any(path.iterdir()) if path.is_dir() else path.stat().st_size == 0
