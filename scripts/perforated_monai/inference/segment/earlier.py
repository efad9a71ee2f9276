"""What an earlier run left in an output folder, and where masks go that are no longer true.

A mask stands under its final name only beside the row that it was made with. Masks of a run that
is done again, of cases that fail now and of cases that are gone are moved aside: they get an ending
that no program reads as a volume.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePath

from ...files import hash_of
from .found import unshown
from .table import CSV, JSONL, Row, is_table, read_rows

OUTDATED = ".outdated"
_GZ = ".nii.gz"


def is_output(folder: Path) -> bool:
    """Whether a run has written its tables there."""
    return is_table(folder / CSV) and (folder / JSONL).is_file()


class Masks:
    """Which files are masks of earlier runs: the table of a folder above names them."""

    def __init__(self) -> None:
        self._known: dict[Path, frozenset[str]] = {}

    def __contains__(self, path: Path) -> bool:
        return any(path.relative_to(f).as_posix() in self._of(f) for f in path.parents)

    def _of(self, folder: Path) -> frozenset[str]:
        if folder not in self._known:
            rows = read_rows(folder / JSONL).values() if is_output(folder) else ()
            self._known[folder] = frozenset(name for row in rows for name in files_of(row))
        return self._known[folder]


def files_of(row: Row) -> list[str]:
    """Mask of a row and what may stand beside it, relative to the output folder.

    Whoever wrote the table, none of them leads out of that folder.
    """
    mask = PurePath(unshown(row.get("mask") or ""))
    if mask.is_absolute() or ".." in mask.parts or not mask.name.endswith(_GZ):
        return []
    name = mask.name[: -len(_GZ)]
    target = name.rpartition("_")[0]
    names = (mask.name, f"{name}.dcm", f"{target}_prob{_GZ}", f"{target}_preview.png")
    return [mask.with_name(n).as_posix() for n in names]


def sums_of(row: Row) -> dict[str, str]:
    """What a row says of its files: path relative to the output folder -> SHA-256."""
    mask, *extras = files_of(row) or [""]
    known = row.get("extras_sha256")
    sums = {mask: row.get("mask_sha256")}
    if isinstance(known, dict):
        sums |= {name: known.get(kind_of_extra(name)) for name in extras}
    return {name: value for name, value in sums.items() if isinstance(value, str)}


def kind_of_extra(path: PurePath | str) -> str:
    """What a file beside a mask is, such as `preview.png`, without the name of its case."""
    return PurePath(path).name.rpartition("_")[2]


def set_aside(output: Path, relative: Iterable[str]) -> dict[Path, Path]:
    """Move files aside; path that each had -> where it is now.

    What is behind a link to elsewhere stays. A file that was moved aside before stays as well: it
    may be work of somebody's hands.

    Args:
        output: folder of the masks.
        relative: paths below it; what is not there is passed over.
    """
    root, moved = Path(os.path.realpath(output)), {}
    for name in relative:
        path = output / name
        inside = Path(os.path.realpath(path.parent)).is_relative_to(root)
        if inside and os.path.lexists(path) and not (path.is_dir() and not path.is_symlink()):
            moved[path] = path.replace(_free(path))
    return moved


def _free(path: Path) -> Path:
    """A name for a file that is moved aside; one of the same content is replaced."""
    number, place = 1, path.with_name(path.name + OUTDATED)
    while os.path.lexists(place) and not _same(place, path):
        number += 1
        place = path.with_name(f"{path.name}{OUTDATED}.{number}")
    return place


def _same(one: Path, other: Path) -> bool:
    try:
        return one.is_file() and other.is_file() and hash_of(one) == hash_of(other)
    except OSError:
        return False
