"""Files -> a volume for the network: whole, finite, with its geometry and checksum."""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from ...errors import UserError
from ..scan import Scan, as_scan
from .header import AFFINE_TOLERANCE, LARGEST_HEADER, Header, parse_header

# Real scans stay below 60:1; only volumes of one value reach gzip's 1030:1.
HIGHEST_RATIO = 250
_RATIO_FROM = 64 * 2**20  # bytes; small files of one value are no bomb
_TRAILING = 2**20  # bytes behind the voxels that are let pass
_BLOCK = 2**22


def hash_files(files: Sequence[Path]) -> str:
    """sha256 over the files' bytes, in order.

    Raises:
        UserError: for a file that cannot be read.
    """
    digest = hashlib.sha256()
    for path in files:
        with _opened(path) as handle:
            while block := handle.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def read_header(path: Path, channels: int | None) -> Header:
    """Header of a ``.nii`` or ``.nii.gz``, checked; no voxel is read.

    Raises:
        UserError: see ``parse_header``; or for a file that cannot be read or is not gzip.
    """
    with _opened(path) as handle:
        return parse_header(next(_blocks(handle, path, LARGEST_HEADER), b""), channels)


def read_headers(files: Sequence[Path], channels: int) -> list[Header]:
    """Headers of one file with all channels, or of one file a channel.

    Raises:
        UserError: for a refused header, or channels that lie on different grids.
    """
    if len(files) not in (1, channels):
        msg = f"the bundle needs {channels} channels; the list gives {len(files)} files."
        raise UserError(msg)
    headers = [read_header(f, channels if len(files) == 1 else 1) for f in files]
    _refuse_other_grids(headers)
    return headers


def read_nifti(
    files: Sequence[Path], channels: int, headers: Sequence[Header] | None = None
) -> Scan:
    """Read one file with all channels, or one file a channel.

    Args:
        files: ``.nii`` or ``.nii.gz``.
        channels: of the bundle.
        headers: of ``read_headers``, where they were read before.

    Raises:
        UserError: as ``read_headers``, or for a damaged or cut file, or values that are not finite.
    """
    headers = headers or read_headers(files, channels)
    images = [_whole(f, h) for f, h in zip(files, headers, strict=True)]
    scan = as_scan(images, headers[0].nifti)
    scan.notes = [note for h in headers for note in h.notes]
    scan.affine = headers[0].affine
    return scan


def _whole(path: Path, header: Header) -> nib.Nifti1Image:
    """Read to the end of the gzip stream, where its checksum stands, but never past the voxels."""
    limit = header.bytes + _TRAILING
    data = bytearray()
    with _opened(path) as handle:
        for block in _blocks(handle, path, _BLOCK):
            data += block
            if len(data) > limit:
                msg = f"it must end after {header.bytes:,} bytes; it goes on. Restore the file."
                raise UserError(msg)
            _refuse_ratio(len(data), handle.tell())
    if len(data) < header.bytes:
        msg = f"it must have {header.bytes:,} bytes; it ends after {len(data):,}. Restore the file."
        raise UserError(msg)
    kind = nib.Nifti2Image if isinstance(header.nifti, nib.Nifti2Header) else nib.Nifti1Image
    try:
        return kind.from_stream(io.BytesIO(data))
    except Exception as error:
        msg = f"it cannot be read ({type(error).__name__}: {error}). Restore the file."
        raise UserError(msg) from error


def _blocks(handle, path: Path, size: int):
    """Uncompressed blocks of a file; gzip by its name, as for every other reader."""
    if not path.name.lower().endswith(".gz"):
        while block := handle.read(size):
            yield block
        return
    inflate = zlib.decompressobj(wbits=31)
    pending, ended, any_data = b"", False, False
    while True:
        if not pending:
            pending = handle.read(1 << 18)
            if not pending:
                break
            any_data = True
        if ended:  # another member, or zeros that pad a tape block
            if not pending.strip(b"\0"):
                pending = b""
                continue
            inflate, ended = zlib.decompressobj(wbits=31), False
        try:
            block = inflate.decompress(pending, size)
        except zlib.error as error:
            msg = f"its gzip data are damaged ({error}). Restore the file."
            raise UserError(msg) from None
        ended = inflate.eof
        pending = inflate.unused_data if ended else inflate.unconsumed_tail
        if block:
            yield block
    if any_data and not ended:
        msg = "its gzip data end early: the file was cut. Restore it."
        raise UserError(msg)


def _refuse_ratio(size: int, packed: int) -> None:
    if size > _RATIO_FROM and size > HIGHEST_RATIO * packed:
        msg = (
            f"gzip may pack a scan {HIGHEST_RATIO}:1; here {size:,} bytes came from {packed:,} "
            "so far. Store the volume uncompressed if it is meant."
        )
        raise UserError(msg)


def _opened(path: Path):
    try:
        return path.open("rb")
    except OSError as error:
        msg = f"it cannot be opened ({error.strerror}). Correct its rights or its name."
        raise UserError(msg) from None


def _refuse_other_grids(headers: Sequence[Header]) -> None:
    first = headers[0]
    for k, other in enumerate(headers[1:], start=2):
        distance = float(np.abs(first.affine - other.affine).max())
        if first.shape != other.shape or not distance <= AFFINE_TOLERANCE:
            msg = (
                f"all channels must lie on one grid; channel 1 has shape {first.shape}, channel "
                f"{k} {other.shape}, and their affines differ by {distance:.3g}. Resample one."
            )
            raise UserError(msg)
