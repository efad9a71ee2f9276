"""Files that are whole or absent: written beside their final name, synced, then renamed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import UserError


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; on success it replaces ``path``.

    Raises:
        UserError: when the disk is full or the folder is not writable; an earlier file under
            the same name stays as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or error
        msg = f"Cannot write {path}: {reason}. Free space or choose another folder."
        raise UserError(msg) from error
    finally:
        with contextlib.suppress(OSError):  # where the folder is gone, so is the file
            temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write ``data`` atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any, indent: int = 2) -> None:
    """Write a value as indented JSON, atomically, with a newline at the end."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def sha256(data: bytes) -> str:
    """Hex digest of bytes."""
    return hashlib.sha256(data).hexdigest()


def hash_of(file: str | Path, kind: str = "sha256") -> str:
    """Hex digest of a file, read piece by piece."""
    digest = hashlib.new(kind)
    with Path(file).open("rb") as handle:
        while piece := handle.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
