"""Files -> a volume for the network: whole, finite, with its geometry and checksum."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from ...errors import UserError
from ..scan import Scan, as_scan
from .found import irregular
from .header import AFFINE_TOLERANCE, LARGEST_HEADER, Header, parse_header

# Real scans stay below 60:1; only volumes of one value reach gzip's 1030:1.
HIGHEST_RATIO = 250
_RATIO_FROM = 64 * 2**20  # bytes; small files of one value are no bomb
_TRAILING = 2**20  # bytes behind the voxels that are let pass
_BLOCK = 2**22


def hash_files(files: Sequence[Path], anonymous: bool = False) -> str:
    """sha256 over the files' bytes, in order.

    Raises:
        UserError: for a file that cannot be read.
    """
    digest = hashlib.sha256()
    for path in files:
        with _opened(path, anonymous) as handle:
            while block := handle.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def read_header(path: Path, channels: int | None, anonymous: bool = False) -> Header:
    """Header of a ``.nii`` or ``.nii.gz``, checked; no voxel is read.

    Raises:
        UserError: see ``parse_header``; or for a file that cannot be read, is not gzip, or has
            another size than its header says.
    """
    with _opened(path, anonymous) as handle:
        _refuse_other_packing(handle, path)
        header = parse_header(next(_blocks(handle, path, LARGEST_HEADER), b""), channels)
        size = os.fstat(handle.fileno()).st_size
    packed = path.name.lower().endswith(".gz")
    if size > header.bytes * (1.01 if packed else 1) + _TRAILING:  # before all of it is hashed
        msg = (
            f"it must have about {header.bytes:,} bytes; it has {size:,}. Restore the file, or "
            "correct the header's shape."
        )
        raise UserError(msg)
    return header


def read_headers(files: Sequence[Path], channels: int, anonymous: bool = False) -> list[Header]:
    """Headers of one file with all channels, or of one file a channel.

    Args:
        files: ``.nii`` or ``.nii.gz``.
        channels: of the bundle.
        anonymous: name no file in messages.

    Raises:
        UserError: for a refused header, or channels that lie on different grids.
    """
    if len(files) not in (1, channels):
        msg = (
            f"the bundle needs {channels} channel{'s' * (channels > 1)}; the list gives "
            f"{len(files)} files. Name one file a channel."
        )
        raise UserError(msg)
    if len(files) == 1:
        return [read_header(files[0], channels, anonymous)]
    headers = []
    for k, path in enumerate(files, start=1):
        with _of_channel(k, path, anonymous):
            headers.append(read_header(path, 1, anonymous))
    _refuse_other_grids(headers)
    return headers


def read_nifti(
    files: Sequence[Path],
    channels: int,
    headers: Sequence[Header] | None = None,
    anonymous: bool = False,
) -> Scan:
    """Read one file with all channels, or one file a channel.

    Args:
        files: ``.nii`` or ``.nii.gz``.
        channels: of the bundle.
        headers: of ``read_headers``, where they were read before.
        anonymous: name no file in messages.

    Raises:
        UserError: as ``read_headers``, or for a damaged or cut file, or values that are not usable.
    """
    headers = headers or read_headers(files, channels, anonymous)
    images, notes = [], [note for h in headers for note in h.notes]
    for k, (path, header) in enumerate(zip(files, headers, strict=True), start=1):
        with _of_channel(k, path, anonymous) if len(files) > 1 else contextlib.nullcontext():
            image, note = _whole(path, header, anonymous)
        images.append(image)
        notes += [note] if note else []
    scan = as_scan(images, headers[0].nifti)
    scan.notes = [*notes, *scan.notes]
    scan.affine = headers[0].affine
    return scan


@contextlib.contextmanager
def _of_channel(number: int, path: Path, anonymous: bool) -> Iterator[None]:
    """Say of which channel a message is."""
    try:
        yield
    except UserError as error:
        name = "" if anonymous else f" ({path.name})"
        msg = f"channel {number}{name}: {error}"
        raise UserError(msg) from error.__cause__


def _whole(path: Path, header: Header, anonymous: bool) -> tuple[nib.Nifti1Image, str]:
    """Read to the end of the gzip stream, where its checksum stands, but never past the voxels."""
    limit = header.bytes + _TRAILING
    data = bytearray()
    with _opened(path, anonymous) as handle:
        for block in _blocks(handle, path, _BLOCK):
            data += block
            if len(data) > limit:
                msg = f"it must end after {header.bytes:,} bytes; it goes on. Restore the file."
                raise UserError(msg)
            _refuse_ratio(len(data), handle.tell())
    if len(data) < header.bytes:
        msg = f"it must have {header.bytes:,} bytes; it ends after {len(data):,}. Restore the file."
        raise UserError(msg)
    note = _behind(data[header.bytes :], header)
    kind = nib.Nifti2Image if isinstance(header.nifti, nib.Nifti2Header) else nib.Nifti1Image
    try:
        return kind.from_stream(io.BytesIO(data)), note
    except Exception as error:
        msg = f"it cannot be read ({type(error).__name__}: {error}). Restore the file."
        raise UserError(msg) from error


def _behind(rest: bytearray, header: Header) -> str:
    """A note about bytes behind the voxels that are padding.

    Raises:
        UserError: for any other: the header describes another volume.
    """
    if any(rest):
        msg = (
            f"it must end after {header.bytes:,} bytes; {len(rest):,} more follow, and the shape "
            f"{header.shape} may be wrong. Restore the file, or correct its header."
        )
        raise UserError(msg)
    return f"{len(rest):,} bytes, all of them 0, follow its voxels" if rest else ""


def _refuse_other_packing(handle, path: Path) -> None:
    """A name that says gzip, or does not, of a file that is otherwise."""
    first = handle.read(6)
    handle.seek(0)
    packed = path.name.lower().endswith(".gz")
    sizes = {n.to_bytes(4, order) for n in (348, 540) for order in ("little", "big")}  # type: ignore[arg-type]
    if packed and first[:4] in sizes:
        msg = "its name ends in .gz, and it is plain NIfTI. Rename it to .nii, or compress it."
        raise UserError(msg)
    if not packed and first[:2] == b"\x1f\x8b":
        msg = "it must begin with a NIfTI header; it is gzip. Rename it to .nii.gz, or unpack it."
        raise UserError(msg)
    kinds = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip", b"\x1f\x9d": "compress"}
    if name := next((kind for magic, kind in kinds.items() if first.startswith(magic)), ""):
        msg = f"it must be NIfTI or gzip; it is {name}. Unpack it."
        raise UserError(msg)


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


def _opened(path: Path, anonymous: bool = False):
    if problem := irregular(path):
        raise UserError(problem)
    try:
        return path.open("rb")
    except OSError as error:
        name = "its file" if anonymous else path.name
        msg = f"{name} cannot be opened ({error.strerror}). Correct its rights or its name."
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
