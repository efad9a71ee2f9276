"""A volume in memory, with its geometry, as every reader gives it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import nibabel as nib
import numpy as np
from monai.data import MetaTensor, NibabelReader
from monai.transforms import EnsureChannelFirst
from monai.utils import convert_to_dst_type

from ..errors import UserError

_BLOCK = 2**22  # voxels that are looked at together


@dataclass
class Scan:
    """A volume ``image`` ``(C, X, Y, Z)`` float32 with affine, as LoadImaged would give it."""

    image: MetaTensor
    affine: np.ndarray
    nifti: nib.Nifti1Header | None
    notes: list[str] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels (X, Y, Z)."""
        return tuple(self.image.shape[1:])


def as_scan(images: list[nib.Nifti1Image], header: nib.Nifti1Header | None = None) -> Scan:
    """Images of one grid -> a float32 volume, by MONAI's own reader, and only finite values.

    Raises:
        UserError: for NaN or Inf.
    """
    reader = NibabelReader()
    reader.filenames = ("",) * len(images)  # names of files must not travel with the volume
    array, meta = reader.get_data(images if len(images) > 1 else images[0])
    array = convert_to_dst_type(array, dst=array, dtype=np.float32)[0]  # LoadImage's memory order
    _refuse_not_finite(array)
    tensor = MetaTensor.ensure_torch_and_prune_meta(array, meta, simple_keys=True)
    image = EnsureChannelFirst()(tensor, meta_dict=meta)
    assert isinstance(image, MetaTensor)
    return Scan(image, np.array(images[0].affine), header)


def _refuse_not_finite(array: np.ndarray) -> None:
    flat = array.reshape(-1, order="A")
    bad = sum(
        int(np.count_nonzero(~np.isfinite(flat[k : k + _BLOCK])))
        for k in range(0, flat.size, _BLOCK)
    )
    if bad:
        msg = (
            f"values must be finite; {bad:,} of {flat.size:,} voxels are NaN or Inf. Correct them."
        )
        raise UserError(msg)


def make_scan(array: np.ndarray, affine: np.ndarray) -> Scan:
    """An array ``(X, Y, Z)`` or ``(C, X, Y, Z)`` and its affine (RAS, mm) -> a volume.

    Raises:
        UserError: for another number of dimensions, a singular affine, or values not finite.
    """
    array, affine = np.asarray(array), np.asarray(affine, float)
    if array.ndim not in (3, 4) or 0 in array.shape or array.dtype.kind not in "iufb":
        msg = f"array must be (X, Y, Z) or (C, X, Y, Z) of real numbers; got {array.shape}."
        raise UserError(msg)
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        msg = f"affine must be 4 × 4 and finite; got shape {affine.shape}."
        raise UserError(msg)
    if math.isclose(float(np.linalg.det(affine[:3, :3])), 0, abs_tol=1e-9):
        msg = "affine must not be singular."
        raise UserError(msg)
    volume = np.moveaxis(array, 0, -1) if array.ndim == 4 else array
    return as_scan([nib.Nifti1Image(volume.astype(np.float32), affine)])
