"""Files that are whole or absent: written beside their final name, synced, then renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .errors import UserError

# A name that nobody else gives to a file: what carries it may be removed. It holds not the final
# name, which may be as long as a name may be.
_TEMPORARY = re.compile(r"\.perforated-monai-\d+-[0-9a-f]{8}\.tmp")
_CURES = {
    errno.ENAMETOOLONG: "Shorten the name",
    errno.EACCES: "Correct the rights or choose another folder",
    errno.EPERM: "Correct the rights or choose another folder",
    errno.EROFS: "Choose another folder",
    errno.ENOENT: "Make the folder or choose another",
    errno.ENOTDIR: "Choose another folder",
    errno.EEXIST: "A file has the name of the folder: rename one",
    errno.EISDIR: "Remove the folder of that name or choose another",
}
_LARGEST_OF_OURS = 1 << 28  # bytes; of what this package writes as text


def cure_of(error: OSError) -> str:
    """What a person can do about a file that could not be written; one phrase, no full stop."""
    return _CURES.get(error.errno or 0, "Free space or choose another folder")


def is_temporary(name: str) -> bool:
    """Whether a file of this name is one of ours, that a kill has left half-written."""
    return _TEMPORARY.fullmatch(name) is not None


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; on success it replaces ``path``.

    Raises:
        UserError: when the disk is full, the folder is not writable, or ``path`` is a folder or a
            device; an earlier file under the same name stays as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".perforated-monai-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        if path.exists() and not path.is_file():  # renaming would put a file in a device's place
            msg = f"Cannot write {path}: it is no regular file. Choose another name."
            raise UserError(msg)
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        msg = f"Cannot write {path}: {error.strerror or error}. {cure_of(error)}."
        raise UserError(msg) from error
    finally:
        with contextlib.suppress(OSError):  # where the folder is gone, so is the file
            temporary.unlink(missing_ok=True)


def refuse_foreign(path: str | Path, what: str, marks: Iterable[str]) -> None:
    """Refuse to replace a file that holds something else than what is to be written there.

    Args:
        path: where ``what`` is to be written; a missing or empty file is free.
        what: such as "manifest", for the message.
        marks: texts that every such file has.

    Raises:
        UserError: for another file.
    """
    path = Path(path).expanduser()
    try:
        if not path.is_file() or path.stat().st_size == 0:
            return
        large = path.stat().st_size > _LARGEST_OF_OURS
        data = b"" if large else path.read_bytes()
    except OSError as error:
        msg = f"{path} cannot be read ({error.strerror}): choose another name."
        raise UserError(msg) from error
    if not all(mark.encode() in data for mark in marks):
        msg = f"{path} exists and is no {what}: it is kept. Choose another name, or remove it."
        raise UserError(msg)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write ``data`` atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically; bytes of a name that are no UTF-8 are escaped."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: str | Path, value: Any, indent: int = 2) -> None:
    """Write a value as indented JSON, atomically, with a newline at the end."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


# What a spreadsheet takes for a formula where a cell begins with it (OWASP, "CSV Injection").
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_text(text: str) -> str:
    """A cell that stays text in a spreadsheet: a case may be called ``=HYPERLINK(...)``."""
    if not text.startswith(_FORMULA):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def from_csv_text(cell: str) -> str:
    """The text of a cell that ``csv_text`` gave."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell


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
