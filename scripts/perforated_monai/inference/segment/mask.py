"""Masks that are whole, verified and on the input's grid, or absent."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import nibabel as nib
import numpy as np

from ...errors import UserError
from ...files import atomic, cure_of, is_temporary
from .header import AFFINE_TOLERANCE

_GEOMETRY = (
    *("qform_code", "sform_code", "xyzt_units", "srow_x", "srow_y", "srow_z"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
)
LOCK = ".segment.lock"  # in an output folder while a run fills it
_LEVEL = 1  # masks are long runs: higher levels cost time and save little


def write_mask(
    path: Path,
    labels: np.ndarray,
    affine: np.ndarray,
    nifti: nib.Nifti1Header | None = None,
    scale: float | None = None,
) -> None:
    """Write an array as ``.nii.gz``; it gets its name only after it was read back and compared.

    Geometry (sform, qform, their codes, units) is copied from the input's header field by field;
    no text of it is. The bytes depend on content alone: no time, no name.

    Args:
        path: final name; its folder is made.
        labels: ``(X, Y, Z)`` or ``(X, Y, Z, K)``, ``uint8`` or ``uint16``.
        affine: of the input.
        nifti: header of the input; without one sform and qform are set from ``affine``, code 1.
        scale: slope by which stored values are multiplied, for probabilities.

    Raises:
        UserError: when the disk is full, the folder cannot be written, or what was written
            differs.
    """
    image = _image(labels, affine, nifti)
    if scale is not None:
        image.header["scl_slope"], image.header["scl_inter"] = scale, 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"its folder in the output cannot be made ({error.strerror}). {cure_of(error)}."
        raise UserError(msg) from error
    try:
        with atomic(path) as temporary:
            with temporary.open("wb") as raw, _packed(raw) as packed:
                image.to_stream(packed)
            verify_mask(temporary, labels, affine, image.header)
    except UserError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError):
            raise
        msg = (
            f"its mask cannot be written ({cause.strerror or cause}). {cure_of(cause)}, and use "
            "--resume."
        )
        raise UserError(msg) from error


def verify_mask(
    path: Path, labels: np.ndarray, affine: np.ndarray, header: nib.Nifti1Header
) -> None:
    """Read a mask to its end and compare it with what was meant.

    Raises:
        UserError: another shape, type, affine (1e-4 mm), form code or voxel.
    """
    try:
        with gzip.open(path) as packed:
            data = packed.read()
        written = _image_class(header).from_bytes(data)
        voxels = written.dataobj.get_unscaled()  # type: ignore[attr-defined]
    except (EOFError, OSError, ValueError, nib.filebasedimages.ImageFileError) as error:
        msg = f"its mask does not read back ({error}). Check the disk and run again."
        raise UserError(msg) from None
    wrong = []
    if voxels.shape != labels.shape or voxels.dtype != labels.dtype:
        wrong.append("shape or type")
    elif not np.array_equal(voxels, labels):
        wrong.append("voxels")
    if not np.abs(written.affine - affine).max() <= AFFINE_TOLERANCE:
        wrong.append("affine")
    for code in ("sform_code", "qform_code"):
        if int(written.header[code]) != int(header[code]):
            wrong.append(code)
    if wrong:
        msg = f"its mask read back with other {', '.join(wrong)}. Check the disk and run again."
        raise UserError(msg)


def remove_leftovers(folder: Path) -> int:
    """Delete temporary files of killed runs; the folder must be locked.

    What is not ours by its name stays, and so does what lies in the output folder of another run,
    which may be at work.
    """
    leftovers = []
    for here, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if not (Path(here) / f / LOCK).exists()]
        leftovers += [Path(here) / name for name in names if is_temporary(name)]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


def _image(
    labels: np.ndarray, affine: np.ndarray, nifti: nib.Nifti1Header | None
) -> nib.Nifti1Image:
    if nifti is None:
        image = nib.Nifti1Image(labels, affine, dtype=labels.dtype)
        image.set_sform(affine, code=1)
        image.set_qform(affine, code=1)
        image.header.set_xyzt_units("mm")
        return image
    header = type(nifti)()
    header.set_data_shape(labels.shape)
    header.set_data_dtype(labels.dtype)
    for key in _GEOMETRY:
        header[key] = nifti[key]
    header["pixdim"][:4] = nifti["pixdim"][:4]
    # Without an affine nibabel takes the header's and leaves both forms as they are.
    return _image_class(header)(labels, None, header)


def _image_class(header: nib.Nifti1Header) -> type[nib.Nifti1Image]:
    return nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image


def _packed(raw) -> gzip.GzipFile:
    return gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=raw, mtime=0)
