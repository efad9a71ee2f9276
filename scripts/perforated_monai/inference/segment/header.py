"""NIfTI headers that are refused before a voxel is read, and oddities that are told."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, field

import nibabel as nib
import numpy as np

from ...data.check.header_rules import (
    affine,
    orientation,
    origin,
    scaling,
    sform_qform,
    shear,
    spacing,
    unit,
)
from ...data.check.volume import Volume
from ...errors import UserError
from ...rules import ERROR

LARGEST_HEADER = 540
MOST_VOXELS = 4_000_000_000  # 16 GB as float32
AFFINE_TOLERANCE = 1e-4  # mm; as for the mask against its input
_PADDING = 16  # bytes; headers are rounded up to a multiple of it
_SIZES = {348: nib.Nifti1Header, 540: nib.Nifti2Header}


@dataclass(frozen=True)
class Header:
    """An accepted header: ``shape`` (X, Y, Z), voxel-to-world ``affine`` (RAS, mm), and notes."""

    nifti: nib.Nifti1Header
    shape: tuple[int, int, int]
    affine: np.ndarray
    channels: int
    bytes: int
    notes: list[str] = field(default_factory=list)

    @property
    def voxels(self) -> int:
        """Voxels of one channel."""
        return math.prod(self.shape)


def parse_header(data: bytes, channels: int | None) -> Header:
    """Check the first ``LARGEST_HEADER`` bytes of an uncompressed ``.nii``.

    Args:
        data: the bytes.
        channels: volumes that a 4-D file must have; 3-D counts as 1. None takes any number.

    Raises:
        UserError: with the rule that is broken, the value found and the cure; no file name.
    """
    nifti, raw = _decoded(data)
    shape = tuple(int(n) for n in nifti.get_data_shape())
    _check_shape(shape, channels)
    _check_type(nifti)
    notes = _geometry_notes(nifti, raw) + _offset_notes(data, nifti)
    volume = math.prod(shape) * nifti.get_data_dtype().itemsize
    return Header(
        nifti=nifti,
        shape=shape[:3],  # type: ignore[arg-type]
        affine=np.array(nifti.get_best_affine(), float),
        channels=shape[3] if len(shape) == 4 else 1,
        bytes=int(nifti.get_data_offset()) + volume,
        notes=notes,
    )


def _decoded(data: bytes) -> tuple[nib.Nifti1Header, nib.Nifti1Header]:
    """The header with nibabel's repairs, and as it stands in the file."""
    if not data:
        msg = "the file is empty. Restore or remove it."
        raise UserError(msg)
    little, big = (int.from_bytes(data[:4], order) for order in ("little", "big"))
    kind = _SIZES.get(little) or _SIZES.get(big)
    if kind is None or len(data) < kind.sizeof_hdr:
        msg = "it must begin with a NIfTI header; it does not. Restore or convert the file."
        raise UserError(msg)
    try:
        raw = kind(data[: kind.sizeof_hdr], check=False)
        if not math.isfinite(float(raw["vox_offset"])):
            msg = f"vox_offset is {raw['vox_offset']}"
            raise ValueError(msg)
        nifti = kind.from_fileobj(io.BytesIO(data))
        if bytes(nifti["magic"].item())[:2] != b"n+":
            msg = "no NIfTI magic"
            raise ValueError(msg)
        nifti.get_data_dtype(), nifti.get_data_shape()
    except Exception as error:  # nibabel raises KeyError to HeaderDataError, by what is damaged
        msg = f"its header is damaged ({error}). Restore or remove the file."
        raise UserError(msg) from error
    return nifti, raw


def _check_shape(shape: tuple[int, ...], channels: int | None) -> None:
    wanted = "3-D" if channels in (None, 1) else f"4-D with {channels} volumes"
    if len(shape) < 3:
        msg = f"it must be {wanted}; it is {len(shape)}-D with shape {shape}. Give whole volumes."
        raise UserError(msg)
    if len(shape) > 4:
        msg = f"it must be {wanted}; it is {len(shape)}-D with shape {shape}. Split it."
        raise UserError(msg)
    if min(shape) < 1:
        msg = f"every dimension must be at least 1; the shape is {shape}. Restore the file."
        raise UserError(msg)
    volumes = shape[3] if len(shape) == 4 else 1
    if channels is not None and volumes != channels:
        msg = (
            f"the bundle needs {channels} channel{'s' * (channels > 1)}; the file has {volumes}, "
            f"shape {shape}. Give one volume a channel, in the order of the bundle's channel_def."
        )
        raise UserError(msg)
    if math.prod(shape) > MOST_VOXELS:
        msg = (
            f"a volume may have {MOST_VOXELS:,} voxels; the header says {shape}, "
            f"{math.prod(shape):,}. Restore the file, or crop or resample the volume."
        )
        raise UserError(msg)


def _check_type(nifti: nib.Nifti1Header) -> None:
    kind = nifti.get_data_dtype()
    if kind.names or kind.kind not in "iuf":
        name = "RGB" if kind.names else kind.name
        msg = f"voxels must be whole or real numbers; they are {name}. Convert to grey values."
        raise UserError(msg)
    offset = nifti.get_data_offset()
    if offset < nifti.single_vox_offset or offset > 10 * 2**20:
        msg = f"voxels must begin behind the header; vox_offset is {offset}. Restore the file."
        raise UserError(msg)


def _offset_notes(data: bytes, nifti: nib.Nifti1Header) -> list[str]:
    """Where the voxels begin, against the extensions that stand before them."""
    size = int(nifti.sizeof_hdr)
    begin, offset = size + 4, int(nifti.get_data_offset())
    first = data[begin : begin + 4]
    order = "little" if nifti.endianness == "<" else "big"
    extension = int.from_bytes(first, order) if data[size : size + 1] > b"\0" else 0  # type: ignore[arg-type]
    if extension and not 0 < extension <= offset - begin:
        msg = (
            f"voxels must begin behind the extensions; vox_offset is {offset}, and an extension of "
            f"{extension:,} bytes begins at {begin}. Restore the file."
        )
        raise UserError(msg)
    if not extension and offset > begin + _PADDING:
        return [f"its voxels begin at byte {offset}, though no extension stands before them"]
    return []


def _geometry_notes(nifti: nib.Nifti1Header, raw: nib.Nifti1Header) -> list[str]:
    """Rules of the data check on where a volume lies; what is odd but usable becomes a note."""
    volume = Volume("", header=nifti, raw=raw)
    told = {"sform-qform", "scaling"} | ({"spacing"} if int(raw["sform_code"]) > 0 else set())
    notes = []
    for rule in (affine, origin, unit, spacing, sform_qform, shear, orientation, scaling):
        for finding in rule.findings("", volume, None):
            if finding.severity == ERROR and rule.name not in told:
                msg = f"it {finding.message}; got {finding.value}. {finding.cure}."
                raise UserError(msg)
            notes.append(f"it {finding.message}; got {finding.value}; mask as the scan")
    return notes
