"""Checkpoints of a run: atomic, hashed, two deep; a damaged one is named and passed over."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any, cast

import torch

from ..errors import UserError
from ..files import sha256, write_bytes, write_text
from .records import Best, Checkpoint

FORMAT = 1


class DamagedCheckpointError(UserError):
    """The bytes of a checkpoint are not those that were written."""


class Checkpoints:
    """The folder ``checkpoints/``: ``epoch_0012.pt`` (the last two) and ``best.pt``.

    Each file has a ``.sha256`` beside it, written first; while a file is replaced, it holds the
    hashes of both contents, so a kill or a full disk between the two leaves the old one whole.
    Loading uses ``weights_only=True``.
    """

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        self.folder = Path(folder)
        self.keep = keep

    def save(self, epoch: int, content: dict[str, Any]) -> Path:
        """Write the checkpoint of an epoch and remove the ones beyond ``keep``."""
        path = self.folder / f"epoch_{epoch:04d}.pt"
        save_hashed(path, content)
        for old in self._epochs()[: -self.keep]:
            old.unlink()
            _hash_file(old).unlink(missing_ok=True)
        return path

    def save_best(self, content: Best) -> None:
        """Write ``best.pt``."""
        save_hashed(self.folder / "best.pt", dict(content))

    def load_last(self) -> Checkpoint | None:
        """The newest whole checkpoint, or None when there is none at all.

        Raises:
            UserError: when checkpoints exist and every one of them is damaged, or when the newest
                whole one has a format this version does not read.
        """
        damaged = []
        for path in reversed(self._epochs()):
            try:
                return cast(Checkpoint, load_hashed(path))
            except DamagedCheckpointError as error:
                warnings.warn(f"{error} The checkpoint before it is used.", stacklevel=2)
                damaged.append(path.name)
        if damaged:
            names = ", ".join(damaged)
            msg = f"Every checkpoint in {self.folder} is damaged ({names}): start anew."
            raise UserError(msg)
        return None

    def any_whole(self) -> bool:
        """Whether a checkpoint lies there with its hash, as a run writes them."""
        return any(_hash_file(path).exists() for path in self._epochs())

    def load_best(self) -> Best | None:
        """The best checkpoint, or None when no validation has made one."""
        path = self.folder / "best.pt"
        return cast(Best, load_hashed(path)) if path.exists() else None

    def _epochs(self) -> list[Path]:
        return sorted(self.folder.glob("epoch_*.pt"), key=lambda p: int(p.stem.split("_")[1]))


def save_hashed(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` by ``torch.save`` with its sha256 beside it."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **content}, buffer)
    data = buffer.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    hashes = [sha256(data)]
    if path.exists():
        hashes.append(sha256(path.read_bytes()))
    write_text(_hash_file(path), "\n".join(hashes) + "\n")
    write_bytes(path, data)


def load_hashed(path: Path) -> dict[str, Any]:
    """Read a file of ``save_hashed`` on the CPU.

    Raises:
        DamagedCheckpointError: when the hash does not fit.
        UserError: when the format is unknown.
    """
    data = path.read_bytes()
    stored = _hash_file(path)
    expected = stored.read_text().split() if stored.exists() else []
    if sha256(data) not in expected:
        msg = f"Checkpoint {path} is damaged: its sha256 does not match {stored.name}."
        raise DamagedCheckpointError(msg)
    content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    if content.get("format") != FORMAT:
        stored = content.get("format")
        msg = f"Checkpoint {path} has format {stored!r}; this version reads {FORMAT}."
        raise UserError(msg)
    return content


def _hash_file(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")
