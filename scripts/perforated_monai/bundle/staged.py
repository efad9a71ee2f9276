"""Several files of a folder replaced together: staged inside it, then moved in place."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..errors import UserError
from ..files import cure_of

_READY = ".export-ready"
_STAGED = ".perforated-monai-export-"  # nobody else's folder is called so, and removed
_REMOVE = ".remove"


@contextlib.contextmanager
def staged(root: str | Path) -> Iterator[Path]:
    """Yield an empty folder inside ``root``; on success its files replace those of ``root``.

    A kill before the end leaves ``root`` as it was, but for the hidden folder, which the next call
    removes. The step that counts is one rename of that folder; after a kill
    during the moves that follow, the next call or ``finish`` completes them.

    Raises:
        UserError: when the disk is full, the folder not writable, or another export at work.
    """
    root = Path(root)
    finish(root)
    _clear_leftovers(root)
    folder = root / f"{_STAGED}{os.getpid()}"
    try:
        folder.mkdir()
        yield folder
        _sync(folder)
        folder.rename(root / _READY)
        finish(root)
    except OSError as error:
        msg = f"Cannot write {root}: {error.strerror or error}. {cure_of(error)}."
        raise UserError(msg) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def new_folder(target: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside ``target`` that becomes it on success, by one rename.

    Raises:
        UserError: when there is something at ``target``, the disk is full, the place not writable,
            or another export at work.
    """
    target = Path(target)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        msg = f"{target} exists: name a new folder, or remove this one."
        raise UserError(msg)
    folder = target.parent / f".{target.name}{_STAGED}{os.getpid()}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(target.parent, f".{target.name}{_STAGED}")
        folder.mkdir()
        yield folder
        _sync(folder)
        folder.rename(target)
    except OSError as error:
        msg = f"Cannot write {target}: {error.strerror or error}. {cure_of(error)}."
        raise UserError(msg) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_at_end(folder: Path, names: list[str]) -> None:
    """Note files, relative to the root, to remove when the staged ones are moved in."""
    (folder / _REMOVE).write_text("\n".join(names))


def finish(root: str | Path) -> None:
    """Complete the moves of an export that was killed in the midst of them; else do nothing."""
    root = Path(root)
    ready = root / _READY
    if not ready.is_dir():
        return
    for file in _files(ready):
        if file.name != _REMOVE:
            target = root / file.relative_to(ready)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
    notes = ready / _REMOVE
    for name in notes.read_text().splitlines() if notes.exists() else []:
        (root / name).unlink(missing_ok=True)
    shutil.rmtree(ready)


def interrupted(root: str | Path) -> bool:
    """Whether an export was killed among its moves: files of two networks may be there."""
    return (Path(root) / _READY).is_dir()


def _sync(folder: Path) -> None:
    for file in _files(folder):
        with file.open("rb+") as handle:
            os.fsync(handle.fileno())


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _clear_leftovers(root: Path, prefix: str = _STAGED) -> None:
    for folder in root.glob(f"{glob.escape(prefix)}*"):
        number = re.fullmatch(r"\d+", folder.name.removeprefix(prefix))
        if number is None:
            continue
        if int(number[0]) != os.getpid() and _alive(int(number[0])):
            msg = f"Another export (process {number[0]}) writes into {root}: wait for its end."
            raise UserError(msg)
        shutil.rmtree(folder)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
