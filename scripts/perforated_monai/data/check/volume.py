"""``Volume``: what the header of one NIfTI file says, and what its voxels hold."""

from __future__ import annotations

import gzip
import io
import logging
import math
import os
import stat
import struct
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np

from .content import BLOCK, MOST_TRAILING, Content, read_content

MAX_VOXELS = 2**30  # a 512 x 512 x 2,000 CT has half of it
LONGEST_EXTENSION = 1 << 24
DEFLATE_RATIO = 1032  # no deflate stream expands more (zlib technical notes)
_HEADERS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
_SILENT = logging.Logger("header", logging.CRITICAL + 1)  # the rules say what nibabel would log
_DAMAGE = (OSError, EOFError, zlib.error)


class Unreadable(Exception):
    """What stopped the reading of a file: the rule it breaks and the value that breaks it."""

    def __init__(self, rule: str, value: object) -> None:
        super().__init__(f"{rule}: {value}")
        self.rule, self.value = rule, " ".join(str(value).split())[:200] or "no text"


@dataclass
class Volume:
    """One NIfTI file.

    Attributes:
        file: path relative to the dataset folder, with forward slashes.
        is_label: a label, else an image.
        size: bytes on disk.
        packed: gzip.
        header: as nibabel reads it, with what nibabel repairs; None when it cannot.
        raw: the header's fields as they stand in the file.
        failure: what stopped the reading, or None.
        content: checksums and statistics, when the file was read to its end.
    """

    file: str
    is_label: bool = False
    size: int = 0
    packed: bool = False
    header: Any = None
    raw: Any = None
    failure: Unreadable | None = None
    content: Content | None = None

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Sizes without trailing ones behind the third, `(X, Y, Z)` or `(X, Y, Z, C)`."""
        shape = [int(n) for n in self.raw["dim"][1 : 1 + int(self.raw["dim"][0])]]
        while len(shape) > 3 and shape[-1] == 1:
            shape.pop()
        return tuple(shape)

    @property
    def channels(self) -> int:
        """Size of the fourth dimension, 1 without one."""
        return math.prod(self.shape[3:])

    @property
    def dtype(self) -> np.dtype:
        """Storage type, with its byte order."""
        return self.header.get_data_dtype()

    @property
    def offset(self) -> int:
        """Bytes before the voxels."""
        return int(self.header.get_data_offset())

    @property
    def bytes_expected(self) -> int:
        """Uncompressed size that the header announces."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize

    @cached_property
    def affine(self) -> np.ndarray:
        """Voxel to world mm, `(4, 4)`, as nibabel and MONAI use it; NaN where it has none."""
        try:
            with np.errstate(all="ignore"):
                return np.asarray(self.header.get_best_affine(), np.float64)
        except (ValueError, ArithmeticError, np.linalg.LinAlgError):
            return np.full((4, 4), np.nan)

    @cached_property
    def spacing(self) -> tuple[float, ...]:
        """Length of a voxel along each axis in mm, from the affine."""
        return tuple(float(mm) for mm in np.sqrt((self.affine[:3, :3] ** 2).sum(0)))

    @property
    def slope_inter(self) -> tuple[float, float]:
        """Scaling of the stored values; (1, 0) where nibabel reads them unscaled."""
        slope, inter = (float(self.raw[key]) for key in ("scl_slope", "scl_inter"))
        return (slope, inter) if slope and math.isfinite(slope) and math.isfinite(inter) else (1, 0)


def read_volume(
    root: Path,
    file: str,
    is_label: bool = False,
    voxels: bool = True,
    picture: bool = False,
) -> Volume:
    """Read a file's header and, with `voxels`, the file to its end; nothing raises but a bug.

    Memory stays at a block of 1 MiB whatever the size of the volume.

    Args:
        root: dataset folder, resolved; a link that leaves it is not followed.
        file: path relative to it.
        is_label: collect the distinct values.
        voxels: read to the end, where gzip keeps its checksum.
        picture: keep the middle axial slice.
    """
    volume = Volume(file, is_label)
    try:
        path = _inside(root, file)
        volume.size = path.stat().st_size
        with path.open("rb") as raw:
            stream = _unpacked(volume, raw)
            head = _read_header(volume, stream)
            _expect_room(volume)
            if voxels:
                volume.content = _read_voxels(volume, stream, head, picture)
                volume.content.crc32 = _crc32(raw)
    except Unreadable as failure:
        volume.failure = failure
    except OSError as error:
        volume.failure = Unreadable("readable", error.strerror or error)
    return volume


def _inside(root: Path, file: str) -> Path:
    path = root / file
    target = Path(os.path.realpath(path))  # `resolve` raises for links that never end
    if not target.is_relative_to(root):
        raise Unreadable("inside", "a link to another place")
    if not stat.S_ISREG(target.stat().st_mode):  # a named pipe would never answer
        raise Unreadable("readable", "no regular file")
    return path


def _unpacked(volume: Volume, raw: IO[bytes]) -> Any:
    magic = raw.read(4)
    raw.seek(0)
    if not magic:
        raise Unreadable("readable", "an empty file")
    volume.packed = magic[:2] == b"\x1f\x8b"
    if volume.packed != volume.file.lower().endswith(".gz"):
        raise Unreadable("ending", "gzip" if volume.packed else "no gzip")
    if volume.packed and magic[3] & 0xE0:  # RFC 1952: must be zero
        raise Unreadable("whole", "reserved gzip flags")
    return gzip.GzipFile(fileobj=raw) if volume.packed else raw


def _read_header(volume: Volume, stream: IO[bytes]) -> bytes:
    """Fill `header` and `raw`; return all bytes up to the voxels."""
    try:
        head = _exactly(stream, 540)
        kind = _HEADERS.get(_header_size(head))
        if kind is None:
            raise Unreadable("nifti", "another kind of file")
        volume.raw = kind(head[: kind.sizeof_hdr], check=False)
        offset = _offset(volume.raw, kind.sizeof_hdr)
        head += _exactly(stream, offset - len(head)) if offset > len(head) else b""
    except _DAMAGE as error:
        raise Unreadable("whole", error) from error
    if len(head) < min(offset, 540):
        raise Unreadable("whole", f"{len(head)} bytes")
    try:
        with np.errstate(all="ignore"):
            header = kind.from_fileobj(io.BytesIO(head[:offset]), check=False)
            header.check_fix(logger=_SILENT)
            header.get_data_dtype(), header.get_data_shape()
    except Exception as error:  # damaged headers raise nearly anything from nibabel
        raise Unreadable("nifti", f"{type(error).__name__}: {error}") from error
    if not 1 <= int(volume.raw["dim"][0]) <= 7:
        raise Unreadable("nifti", f"{volume.raw['dim'][0]} dimensions")
    volume.header = header
    return head


def _header_size(head: bytes) -> int:
    for order in "<>":
        size = struct.unpack(f"{order}i", head[:4].ljust(4, b"\0"))[0]
        magic = head[344:348] if size == 348 else head[4:8]
        if (size, magic) in ((348, b"n+1\0"), (540, b"n+2\0")):
            return size
    return 0


def _offset(raw: Any, header_size: int) -> int:
    """Where the voxels begin; nibabel reads 0 as directly behind the header."""
    offset = float(raw["vox_offset"])
    if not (offset == 0 or header_size <= offset <= LONGEST_EXTENSION):
        raise Unreadable("nifti", f"vox_offset {offset:g}")
    return int(offset) or header_size + 4


def _expect_room(volume: Volume) -> None:
    """Refuse from the header what cannot be read or must not be, before anything is."""
    count = math.prod(volume.shape)
    if min(volume.shape) < 1:
        raise Unreadable("dimensions", volume.shape)
    if volume.dtype.kind not in "iuf":
        raise Unreadable("datatype", volume.dtype)
    if count > MAX_VOXELS:
        raise Unreadable("voxel-budget", f"{' x '.join(map(str, volume.shape))} voxels")
    most = volume.size * DEFLATE_RATIO if volume.packed else volume.size
    if volume.packed and volume.size > volume.bytes_expected * 1.01 + MOST_TRAILING:
        raise Unreadable("whole", f"{volume.size} packed bytes for {volume.bytes_expected}")
    if most < volume.bytes_expected:
        raise Unreadable("whole", f"{volume.size} bytes for {volume.bytes_expected} of voxels")


def _read_voxels(volume: Volume, stream: IO[bytes], head: bytes, picture: bool) -> Content:
    layout = (volume.offset, volume.shape, volume.dtype, volume.slope_inter)
    try:
        content = read_content(stream, head, *layout, values=volume.is_label, picture=picture)
    except _DAMAGE as error:
        raise Unreadable("whole", error) from error
    if content.missing:
        raise Unreadable("whole", f"{content.missing} bytes too few")
    return content


def _crc32(raw: IO[bytes]) -> str:
    """CRC-32 of the file on disk: a flipped bit that no unpacking shows changes it."""
    raw.seek(0)
    crc = 0
    while block := raw.read(BLOCK):
        crc = zlib.crc32(block, crc)
    return f"{crc:08x}"


def _exactly(stream: IO[bytes], length: int) -> bytes:
    """`length` bytes, fewer only at the end of the file."""
    parts = []
    while length > 0 and (part := stream.read(min(length, BLOCK))):
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
