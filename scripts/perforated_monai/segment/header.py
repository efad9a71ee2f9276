"""NIfTI headers that are refused before a voxel is read, and oddities that are told."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, field

import nibabel as nib
import numpy as np

from ..errors import UserError

LARGEST_HEADER = 540
MOST_VOXELS = 4_000_000_000  # 16 GB as float32
AFFINE_TOLERANCE = 1e-4  # mm; as for the mask against its input
SMALLEST_VOXEL = 1e-4  # mm; smaller ones are errors of unit or damage
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
    nifti = _decoded(data)
    shape = tuple(int(n) for n in nifti.get_data_shape())
    _check_shape(shape, channels)
    _check_type(nifti)
    affine, notes = _check_geometry(nifti)
    volume = math.prod(shape) * nifti.get_data_dtype().itemsize
    return Header(
        nifti=nifti,
        shape=shape[:3],  # type: ignore[arg-type]
        affine=affine,
        channels=shape[3] if len(shape) == 4 else 1,
        bytes=int(nifti.get_data_offset()) + volume,
        notes=notes + _scaling_notes(nifti),
    )


def _decoded(data: bytes) -> nib.Nifti1Header:
    if not data:
        msg = "the file is empty. Restore or remove it."
        raise UserError(msg)
    little, big = (int.from_bytes(data[:4], order) for order in ("little", "big"))
    kind = _SIZES.get(little) or _SIZES.get(big)
    if kind is None or len(data) < kind.sizeof_hdr:
        msg = "it must begin with a NIfTI header; it does not. Restore or convert the file."
        raise UserError(msg)
    try:
        nifti = kind.from_fileobj(io.BytesIO(data))
        if bytes(nifti["magic"].item())[:2] not in (b"n+", b"ni"):
            raise ValueError("no NIfTI magic")
        nifti.get_data_dtype(), nifti.get_data_shape()
    except Exception as error:  # nibabel raises KeyError to HeaderDataError, by what is damaged
        msg = f"its header is damaged ({error}). Restore or remove the file."
        raise UserError(msg) from error
    return nifti


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
    found = shape[3] if len(shape) == 4 else 1
    if channels is not None and found != channels:
        msg = (
            f"the bundle needs {channels} channel{'s' * (channels > 1)}; the file has {found}, "
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


def _check_geometry(nifti: nib.Nifti1Header) -> tuple[np.ndarray, list[str]]:
    """Voxel-to-world affine by NIfTI's order of sform, qform, spacing; and notes."""
    notes = []
    sform, qform = int(nifti["sform_code"]), int(nifti["qform_code"])
    spacing = np.array(nifti["pixdim"][1:4], float)
    if not sform and not (np.isfinite(spacing).all() and (spacing > 0).all()):
        msg = f"voxel sizes must be above 0 mm; they are {_short(spacing)}. Correct pixdim."
        raise UserError(msg)
    try:
        affine = np.array(nifti.get_best_affine(), float)
        other = np.array(nifti.get_qform(), float) if sform and qform else affine
    except Exception as error:  # a quaternion of no rotation
        msg = f"its qform is no rotation ({error}). Correct the header."
        raise UserError(msg) from error
    if not np.isfinite(affine).all():
        msg = f"its {'sform' if sform else 'qform'} must be finite; it holds NaN or Inf. Correct it."
        raise UserError(msg)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    volume = abs(np.linalg.det(affine[:3, :3]))
    if sizes.min() < SMALLEST_VOXEL or volume < 1e-3 * sizes.prod():
        msg = f"its affine must not be singular; axes have {_short(sizes)} mm. Correct the header."
        raise UserError(msg)
    if not sform and not qform:
        notes.append("neither sform nor qform is set: orientation taken as stored, codes kept at 0")
    difference = float(np.abs(affine - other).max())
    if not difference <= max(AFFINE_TOLERANCE, 1e-3 * sizes.min()):
        notes.append(f"sform and qform differ by {difference:.3g}; sform used, both kept")
    return affine, notes


def _scaling_notes(nifti: nib.Nifti1Header) -> list[str]:
    slope, intercept = float(nifti["scl_slope"]), float(nifti["scl_inter"])
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        return ["scl_slope or scl_inter is not finite: values read unscaled"]
    return []


def _short(values: np.ndarray) -> str:
    return "×".join(f"{v:.3g}" for v in values)
