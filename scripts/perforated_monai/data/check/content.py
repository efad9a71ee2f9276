"""Checksums and statistics of a volume's voxels, from a stream, in blocks of 1 MiB."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

import numpy as np

BLOCK = 1 << 20
MOST_VALUES = 4096  # distinct values that are kept; a label has a handful
MOST_TRAILING = 1 << 26  # bytes read behind the voxels; a decompression bomb ends here


@dataclass
class Content:
    """What a file read to its end holds.

    Attributes:
        sha256: hex digest of the uncompressed file.
        crc32: hex digits of the file as it lies on disk.
        voxels_digest: hex digest of shape, type and voxels alone, whatever the header says.
        low, high: smallest and largest finite value of each channel, scaled.
        not_finite: voxels that are NaN or infinite.
        values: distinct values of a label, scaled, sorted; some of them where there are thousands.
        missing, trailing: bytes too few, bytes behind the voxels.
        trailing_data: whether any byte behind the voxels is not 0.
        picture: the middle axial slice of the first channel `(X, Y)`, when asked for.
    """

    sha256: str = ""
    crc32: str = ""
    voxels_digest: str = ""
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    not_finite: int = 0
    values: list[float] = field(default_factory=list)
    missing: int = 0
    trailing: int = 0
    trailing_data: bool = False
    picture: np.ndarray | None = None


def read_content(
    stream: IO[bytes],
    head: bytes,
    offset: int,
    shape: tuple[int, ...],
    dtype: np.dtype,
    slope_inter: tuple[float, float],
    values: bool = False,
    picture: bool = False,
) -> Content:
    """Read a file on to its end.

    Args:
        stream: uncompressed bytes, standing behind `head`.
        head: what was read of it already: header and extensions, and some voxels at times.
        offset: where the voxels begin.
        shape, dtype, slope_inter: from the header.
        values: collect the distinct values, as of a label.
        picture: keep the middle slice.

    Raises:
        OSError, EOFError, zlib.error: for a damaged stream.
    """
    content = Content()
    slope, inter = slope_inter
    file_digest = hashlib.sha256(head)
    voxels_digest = hashlib.blake2b(f"{shape} {dtype.str}".encode(), digest_size=16)
    reader = _Reader(stream, head[offset:], file_digest)
    keep = _Slice(shape, dtype) if picture else None
    distinct: set[float] = set()
    for channel in range(math.prod(shape[3:])):
        low, high = math.inf, -math.inf
        for block in reader.blocks(math.prod(shape[:3]) * dtype.itemsize):
            voxels_digest.update(block)
            voxels = np.frombuffer(block[: len(block) // dtype.itemsize * dtype.itemsize], dtype)
            if keep is not None and channel == 0:
                keep.add(voxels)
            voxels = _finite(voxels, content)
            if voxels.size:
                low, high = min(low, float(voxels.min())), max(high, float(voxels.max()))
            if values and len(distinct) < MOST_VALUES:
                distinct.update(_distinct(voxels))
        ends = sorted((low * slope + inter, high * slope + inter))
        content.low.append(ends[0])
        content.high.append(ends[1])
    content.values = sorted(value * slope + inter for value in distinct)
    content.missing, content.trailing = reader.missing, reader.rest()
    content.trailing_data = reader.any_data
    content.sha256, content.voxels_digest = file_digest.hexdigest(), voxels_digest.hexdigest()
    content.picture = keep.image() if keep is not None else None
    return content


class _Reader:
    """A stream whose first bytes were read already, in blocks, hashed on the way."""

    def __init__(self, stream: IO[bytes], first: bytes, digest: hashlib._Hash) -> None:
        self.stream, self.first, self.digest = stream, first, digest
        self.missing = 0
        self.any_data = False  # in what was read by `rest`

    def blocks(self, length: int) -> Iterator[bytes]:
        """`length` bytes in blocks of whole numbers; counts what the stream lacks."""
        while length > 0:
            block = self._take(min(length, BLOCK))
            if not block:
                self.missing += length
                return
            yield block
            length -= len(block)

    def rest(self) -> int:
        """Read on to the end, where gzip checks itself; returns the number of bytes."""
        count = 0
        while block := self._take(BLOCK):
            count += len(block)
            self.any_data = self.any_data or any(block)
            if count > MOST_TRAILING:
                raise OSError(f"more than {MOST_TRAILING} bytes behind the voxels")
        return count

    def _take(self, length: int) -> bytes:
        block, self.first = self.first[:length], self.first[length:]
        while len(block) < length and (more := self.stream.read(length - len(block))):
            self.digest.update(more)
            block += more
        return block


class _Slice:
    """Collects the middle axial slice of a stream of voxels in Fortran order."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.shape = shape[:2]
        area = math.prod(self.shape)
        self.start, self.stop = shape[2] // 2 * area, (shape[2] // 2 + 1) * area
        self.position = 0
        self.voxels = np.zeros(area, dtype)

    def add(self, voxels: np.ndarray) -> None:
        first = max(self.start, self.position)
        last = min(self.stop, self.position + len(voxels))
        if first < last:
            part = voxels[first - self.position : last - self.position]
            self.voxels[first - self.start : last - self.start] = part
        self.position += len(voxels)

    def image(self) -> np.ndarray:
        return self.voxels.reshape(self.shape, order="F")


def _finite(voxels: np.ndarray, content: Content) -> np.ndarray:
    if voxels.dtype.kind != "f":
        return voxels
    finite = np.isfinite(voxels)
    if finite.all():
        return voxels
    content.not_finite += int(voxels.size - np.count_nonzero(finite))
    return voxels[finite]


def _distinct(voxels: np.ndarray) -> list[float]:
    if voxels.dtype == np.uint8:  # most labels; counting is ten times faster than sorting
        return np.flatnonzero(np.bincount(voxels, minlength=256)).astype(np.float64).tolist()
    return np.unique(voxels)[:MOST_VALUES].astype(np.float64).tolist()
