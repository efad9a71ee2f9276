"""The files of a bundle: kinds, names, sizes, and what `packed.json` says of them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from ..._version import __version__
from ...errors import UserError
from ...files import hash_of
from ...rules import NOTE, WARNING, Broken, rule
from ..large_files import NAMES, read_large_files
from ..layout import FOLDERS, FORMATS, PACKAGE, TOP, package_files
from ..portable_names import clashes, unsafe
from ..record import RECORD, read_record
from .archive import MOST_BYTES, MOST_FILES

# Bytes that a file of a kind may have; others are limited by the total.
LIMITS = {".json": 4_000_000, ".yaml": 300_000, ".yml": 300_000, ".conf": 50_000, ".py": 500_000}
# First bytes of archives, programs and pickles that no text or picture has.
_DISGUISED = {
    b"PK\x03\x04": "a zip",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a rar archive",
    b"\x7fELF": "a program",
    b"MZ": "a program",
    b"\xca\xfe\xba\xbe": "a program",
    b"\xcf\xfa\xed\xfe": "a program",
    b"\x80\x02": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
}
_PICTURES = {".png": b"\x89PNG\r\n", ".jpg": b"\xff\xd8\xff", ".jpeg": b"\xff\xd8\xff"}
_ZIPS = (".pt", ".ts", ".pt2", ".npz")
# A network as code: what it would run when it is loaded is not read here.
_COMPILED = (".ts", ".pt2")
# What a study leaves in studies/results of a working folder; pack leaves it out.
_RESULTS = (".json", ".jsonl", ".csv", ".md", ".npz", ".png")


@dataclass
class Unpacked:
    """A bundle's folder, with every file found in it; links are not followed.

    Attributes:
        sizes: path with forward slashes -> bytes, of plain files.
        odd: path -> what it is instead.
        configs: path -> parsed content of every readable JSON or YAML file (`texts`).
    """

    root: Path
    sizes: dict[str, int] = field(default_factory=dict)
    odd: dict[str, str] = field(default_factory=dict)
    configs: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def written_by(self) -> str:
        """Who packed it, as the record says."""
        try:
            known = read_record(self.root)
        except UserError:
            return ""
        return known.written_by[:60] if known else ""

    @cached_property
    def elsewhere(self) -> set[str]:
        """Paths that may come from an address."""
        try:
            return {entry.path for entry in read_large_files(self.root)}
        except UserError:
            return set()


def walk(root: Path) -> Unpacked:
    """List a folder.

    Raises:
        UserError: for more files than a bundle has.
    """
    bundle = Unpacked(root)
    for folder, folders, files in os.walk(root, onerror=_unreadable):
        for name in [*folders, *files]:
            path = Path(folder) / name
            short = path.relative_to(root).as_posix()
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                bundle.sizes[short] = path.lstat().st_size
            elif not stat.S_ISDIR(mode):
                bundle.odd[short] = "a link" if stat.S_ISLNK(mode) else "a device, pipe or socket"
        if len(bundle.sizes) + len(bundle.odd) > MOST_FILES:
            msg = f"{root} must hold at most {MOST_FILES} files. Name a bundle's own folder."
            raise UserError(msg)
    return bundle


def _unreadable(error: OSError) -> None:
    msg = f"{error.filename} cannot be listed ({error.strerror}), so nothing can be said of it."
    raise UserError(f"{msg} Make it readable.")


@rule("plain-files", "must be a plain file or folder")
def plain_files(bundle: Unpacked) -> Iterator[Broken]:
    for path, kind in bundle.odd.items():
        yield Broken(kind, "Remove it", path)


@rule("file-names", "must have a name of its own that every system can write")
def file_names(bundle: Unpacked) -> Iterator[Broken]:
    for path in bundle.sizes:
        if reason := unsafe(path):
            yield Broken(reason, "Rename it", repr(path))
    for path, other in clashes(bundle.sizes):
        yield Broken(
            f"the same as {other!r} where upper and lower case are equal", "Rename it", path
        )


@rule("file-sizes", "must not be larger than a bundle needs")
def file_sizes(bundle: Unpacked) -> Iterator[Broken]:
    for path, size in bundle.sizes.items():
        limit = LIMITS.get(_suffix(path), MOST_BYTES)
        if size > limit:
            yield Broken(f"{size:,} bytes, at most {limit:,}", "Refused", path)
    if (total := sum(bundle.sizes.values())) > MOST_BYTES:
        yield Broken(f"{total:,} bytes in all, at most {MOST_BYTES:,}", "Refused")


@rule("disguised", "must be what its name says")
def disguised(bundle: Unpacked) -> Iterator[Broken]:
    for path in bundle.sizes:
        with (bundle.root / path).open("rb") as handle:
            head = handle.read(8)
        suffix = _suffix(path)
        kind = next((kind for magic, kind in _DISGUISED.items() if head.startswith(magic)), "")
        if kind and not (kind == "a zip" and suffix in _ZIPS):
            yield Broken(kind, "Remove it", path)
        elif suffix in _PICTURES and not head.startswith(_PICTURES[suffix]):
            yield Broken("no picture", "Remove it", path)


@rule("record", f"must be as {RECORD} says")
def record(bundle: Unpacked) -> Iterator[Broken]:
    try:
        known = read_record(bundle.root)
    except UserError as error:
        yield Broken(str(error).rstrip("."), "Fetch the zip again", RECORD)
        return
    if known is None:
        value = f"no {RECORD}, so nothing says what was packed"
        yield Broken(value, "Ask for a bundle made by pack", severity=WARNING)
        return
    for path, (size, digest) in known.files.items():
        if path not in bundle.sizes:
            yield Broken("no such file", "Fetch the zip again", path)
        elif bundle.sizes[path] != size:
            yield Broken(f"{bundle.sizes[path]:,} bytes, not {size:,}", "Fetch the zip again", path)
        elif hash_of(bundle.root / path) != digest:
            yield Broken("another sha256", "Fetch the zip again", path)
    for path in sorted(bundle.sizes.keys() - known.files.keys() - bundle.elsewhere - {RECORD}):
        yield Broken("a file that was not packed", "Remove it", path)


@rule("unread", "is not read, only compared with its hash", NOTE)
def unread(bundle: Unpacked) -> Iterator[Broken]:
    for path in bundle.sizes:
        if _suffix(path) == ".onnx" or path.endswith(".onnx.data"):
            yield Broken("a network in ONNX form", "Take it from a source that you trust", path)


@rule("file-kinds", "must be of a kind that a bundle needs")
def file_kinds(bundle: Unpacked) -> Iterator[Broken]:
    for path in bundle.sizes:
        top, suffix = path.split("/")[0], _suffix(path)
        if top == PACKAGE:
            continue  # compared file by file
        if suffix == ".py":
            yield Broken("code of its own", "Read it before you go on", path)
        elif suffix in _COMPILED:
            cure = "Leave it out, make it again by export, or take it from a source that you trust"
            yield Broken("a compiled network, which verify does not read", cure, path)
        elif not _is_usual(path, top, suffix):
            yield Broken("a file that verify does not know", "Look at it before you go on", path)


@rule("package", f"must be that of the installed {PACKAGE}")
def package(bundle: Unpacked) -> Iterator[Broken]:
    packed = {path for path in bundle.sizes if path.split("/")[0] == PACKAGE}
    if not packed:
        return
    installed = package_files()
    other = [
        path
        for path in sorted(packed | installed.keys())
        if path not in packed
        or path not in installed
        or hash_of(bundle.root / path) != hash_of(installed[path])
    ]
    if other:
        shown = ", ".join(other[:3]) + (f" and {len(other) - 3} more" if len(other) > 3 else "")
        made = f" (packed by {bundle.written_by})" if bundle.written_by else ""
        value = f"{len(other)} files unlike those of {__version__}{made}: {shown}"
        cure = "Install the version that it was packed with, or read them before you go on"
        yield Broken(value, cure, PACKAGE)


def _is_usual(path: str, top: str, suffix: str) -> bool:
    if "/" not in path:
        return path in (*TOP, *NAMES, RECORD)
    kinds = FOLDERS.get(top, ())
    if path.startswith("studies/results/"):
        return suffix in _RESULTS or path.endswith(("/.gitignore", "/.lock"))
    if top == "models":
        formats = [name for names in FORMATS.values() for name in names]
        return suffix in kinds or path in {f"models/{name}" for name in formats}
    return suffix in kinds


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.lower()
