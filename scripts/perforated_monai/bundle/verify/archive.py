"""A zip judged by its headers, and unpacked piece by piece."""

from __future__ import annotations

import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ...errors import UserError
from ...rules import Broken, rule
from ..portable_names import clashes, unsafe

MOST_FILES = 5_000
MOST_BYTES = 4 * 2**30 - 1  # of all files; the zip64 form, which larger ones need, is refused
MOST_RATIO = 200  # unpacked to packed, for files above 1 MB; weights and text stay below 20
_RATIO_FROM = 10**6
_DIRECTORY_BYTES = 4 * 2**20
_END = struct.Struct("<4s4H2IH")
_LOCAL = struct.Struct("<4s5H3I2H")
# What Python's zipfile raises beside its own error when it meets odd bytes.
_DAMAGE = (ValueError, NotImplementedError, RuntimeError, EOFError, OverflowError, struct.error)
_ENCRYPTED, _SIZES_FOLLOW = 0x1, 0x8
_OTHER_NAME = 0x7075  # extra field with a second name, which some programs take instead


@dataclass
class Archive:
    """A zip and its entries, as the directory at its end lists them."""

    path: Path
    zip: zipfile.ZipFile

    @cached_property
    def entries(self) -> list[zipfile.ZipInfo]:
        """Files and folders, in the order of the directory."""
        return self.zip.infolist()

    @property
    def names(self) -> list[str]:
        """Names as they stand in the zip, folders without their slash."""
        return [entry.orig_filename.removesuffix("/") for entry in self.entries]

    @property
    def top(self) -> str:
        """The top folder, where there is one."""
        tops = {name.split("/")[0] for name in self.names}
        return tops.pop() if len(tops) == 1 else ""


def open_archive(path: Path) -> Archive:
    """Open a zip whose directory is whole and small.

    Raises:
        UserError: for a file that is cut, no zip, or one with more than the entries themselves.
    """
    size = path.stat().st_size
    with path.open("rb") as handle:
        handle.seek(max(size - _END.size, 0))
        tail = handle.read()
    if len(tail) < _END.size or not tail.startswith(b"PK\x05\x06"):
        msg = f"{path} must be a whole zip without a comment; its end is missing. Fetch it again."
        raise UserError(msg)
    _, *disks, entries, length, start, _ = _END.unpack(tail)
    if disks[:2] != [0, 0] or entries > MOST_FILES or length > _DIRECTORY_BYTES:
        msg = f"{path} must list at most {MOST_FILES} files in one zip; got {entries}. Refused."
        raise UserError(msg)
    if start + length + _END.size != size:
        msg = f"{path} must hold nothing but its files; found other bytes. Refused."
        raise UserError(msg)
    try:
        return Archive(path, zipfile.ZipFile(path))
    except (zipfile.BadZipFile, OSError, *_DAMAGE) as error:
        msg = f"{path} must be a zip; got {error}. Fetch it again."
        raise UserError(msg) from None


@rule("zip-names", "must have a name that stays inside the bundle on every system")
def zip_names(archive: Archive) -> Iterator[Broken]:
    for entry, name in zip(archive.entries, archive.names, strict=True):
        if reason := unsafe(name):
            yield Broken(reason, "Refused", repr(name))
        if _OTHER_NAME in _extra_fields(entry.extra):
            yield Broken("a second name in a hidden field", "Refused", repr(name))


@rule("zip-kinds", "must be a plain file or folder, stored or deflated")
def zip_kinds(archive: Archive) -> Iterator[Broken]:
    for entry in archive.entries:
        mode = entry.external_attr >> 16
        folder = entry.orig_filename.endswith("/")
        if stat.S_ISLNK(mode):
            yield Broken("a link", "Refused", entry.orig_filename)
        elif stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            yield Broken("a device, pipe or socket", "Refused", entry.orig_filename)
        elif folder != (stat.S_ISDIR(mode) or (folder and not stat.S_IFMT(mode))):
            yield Broken("a folder under the name of a file", "Refused", entry.orig_filename)
        elif folder and entry.file_size:
            yield Broken("a folder with content", "Refused", entry.orig_filename)
        if entry.flag_bits & _ENCRYPTED:
            yield Broken("an encrypted file", "Refused", entry.orig_filename)
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            yield Broken(f"compression {entry.compress_type}", "Refused", entry.orig_filename)


@rule("zip-twice", "must have a name of its own, also where upper and lower case are equal")
def zip_twice(archive: Archive) -> Iterator[Broken]:
    files = [n for e, n in zip(archive.entries, archive.names, strict=True) if not e.is_dir()]
    for name, other in clashes(files):
        yield Broken(f"the same as {other!r}", "Refused", name)


@rule("zip-size", "must not unpack to more than a bundle needs")
def zip_size(archive: Archive) -> Iterator[Broken]:
    total = sum(entry.file_size for entry in archive.entries)
    if total > MOST_BYTES:
        yield Broken(f"{total:,} bytes in all, at most {MOST_BYTES:,}", "Refused")
    for entry in archive.entries:
        ratio = entry.file_size / max(entry.compress_size, 1)
        if entry.file_size > _RATIO_FROM and ratio > MOST_RATIO:
            value = f"{entry.file_size:,} bytes out of {entry.compress_size:,}"
            yield Broken(value, "Refused", entry.orig_filename)


@rule("zip-layout", "must lie in the zip as its directory says")
def zip_layout(archive: Archive) -> Iterator[Broken]:
    end = 0
    with archive.path.open("rb") as handle:
        for entry in sorted(archive.entries, key=lambda e: e.header_offset):
            handle.seek(entry.header_offset)
            head = handle.read(_LOCAL.size)
            if len(head) < _LOCAL.size or not head.startswith(b"PK\x03\x04"):
                yield Broken("no header where it should be", "Refused", entry.orig_filename)
                return
            _, _, flags, method, _, _, _, packed, size, name, extra = _LOCAL.unpack(head)
            follow = bool(flags & _SIZES_FOLLOW)
            says = (flags, method, packed, size)
            listed = (entry.flag_bits, entry.compress_type, entry.compress_size, entry.file_size)
            if says[:2] != listed[:2] or (not follow and says != listed):
                yield Broken("another size or kind in its own header", "Refused",
                             entry.orig_filename)  # fmt: skip
            spare = entry.header_offset - end
            if spare < 0 or spare > (24 if end else 0):
                yield Broken("bytes shared with, or hidden between, other files", "Refused",
                             entry.orig_filename)  # fmt: skip
            end = entry.header_offset + _LOCAL.size + name + extra + entry.compress_size


@rule("zip-top", "must hold one folder, which is a bundle")
def zip_top(archive: Archive) -> Iterator[Broken]:
    if not archive.top:
        tops = sorted({name.split("/")[0] for name in archive.names})
        yield Broken(f"{', '.join(tops[:4]) or 'nothing'} at the top", "Pack it again")
    elif not any(name.startswith(f"{archive.top}/configs/") for name in archive.names):
        yield Broken(f"no {archive.top}/configs", "Pack it again")


def unpack(archive: Archive, folder: Path) -> Path:
    """Write the files of a zip without broken rules into an empty folder, counting what comes.

    Returns:
        The bundle's folder.

    Raises:
        UserError: for a file that is damaged or longer than its header says, or a full disk.
    """
    need = sum(entry.file_size for entry in archive.entries)
    if need > (free := shutil.disk_usage(folder).free):
        msg = f"{archive.path} needs {need:,} bytes to be verified; {free:,} are free. Free space."
        raise UserError(msg)
    for entry in archive.entries:
        if entry.is_dir():
            continue
        target = folder / entry.filename
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write(archive, entry, target)
        except (zipfile.BadZipFile, zlib.error, *_DAMAGE) as error:
            msg = f"{archive.path}: {entry.filename} is damaged ({error}). Fetch the zip again."
            raise UserError(msg) from None
        except OSError as error:
            reason = error.strerror or error
            msg = f"{archive.path} cannot be unpacked to be read: {reason}. Free space in {folder}."
            raise UserError(msg) from None
    return folder / archive.top


def _write(archive: Archive, entry: zipfile.ZipInfo, target: Path) -> None:
    left = entry.file_size
    with archive.zip.open(entry) as source, target.open("xb") as file:
        while piece := source.read(1 << 20):
            left -= len(piece)
            if left < 0:
                msg = "longer than its header says"
                raise zipfile.BadZipFile(msg)
            file.write(piece)
    if left:
        msg = "shorter than its header says"
        raise zipfile.BadZipFile(msg)


def _extra_fields(extra: bytes) -> set[int]:
    kinds = set()
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        kinds.add(kind)
        extra = extra[4 + length :]
    return kinds
