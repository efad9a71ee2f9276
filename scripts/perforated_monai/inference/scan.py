"""A volume in memory, with its geometry, as every reader gives it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor, NibabelReader
from monai.transforms import EnsureChannelFirst
from monai.utils import convert_to_dst_type

from ..data.check.content import Content
from ..data.check.volume import Volume
from ..data.check.voxel_rules import constant, extreme
from ..errors import UserError
from ..rules import ERROR

_SAMPLED = 100_000  # voxels that tell how far apart most values lie
_FAR = 100  # times that range: a few voxels beyond squeeze all others when they are normalised
_FEWEST = 8  # values of a scan; a label map has few, all of them whole
_GLANCE = 4096  # voxels, of those sampled
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
    """Images of one grid -> a float32 volume, by MONAI's own reader, and only usable values.

    Raises:
        UserError: for NaN or Inf, and for values that `check` calls an error: one value everywhere,
            or beyond what any scanner gives.
    """
    reader = NibabelReader()
    reader.filenames = ("",) * len(images)  # names of files must not travel with the volume
    array, meta = reader.get_data(images if len(images) > 1 else images[0])
    array = convert_to_dst_type(array, dst=array, dtype=np.float32)[0]  # LoadImage's memory order
    _refuse_not_finite(array)
    tensor = MetaTensor.ensure_torch_and_prune_meta(array, meta, simple_keys=True)
    image = EnsureChannelFirst()(tensor, meta_dict=meta)
    assert isinstance(image, MetaTensor)
    return Scan(image, np.array(images[0].affine), header, _value_notes(image))


def _value_notes(image: MetaTensor) -> list[str]:
    """Rules of the data check on values; what is odd but usable becomes a note."""
    channels = torch.as_tensor(image).as_subclass(torch.Tensor).flatten(1)
    ends = [torch.aminmax(channel) for channel in channels]
    low, high = ([float(end[k]) for end in ends] for k in (0, 1))
    volume = Volume("", content=Content(low=low, high=high))
    notes = []
    for rule in (constant, extreme):
        for finding in rule.findings("", volume, None):
            if finding.severity == ERROR:
                msg = f"it {finding.message}; got {finding.value}. {finding.cure}."
                raise UserError(msg)
            notes.append(f"it {finding.message}; got {finding.value}")
    notes += _same_channels(channels, low, high) + _far_voxels(channels, low, high)
    return notes + _few_values(channels)


def _same_channels(channels: torch.Tensor, low: list[float], high: list[float]) -> list[str]:
    pairs = [
        f"{j + 1} and {k + 1}"
        for k in range(len(channels))
        for j in range(k)
        if low[j] < high[j]
        and (low[j], high[j]) == (low[k], high[k])
        and torch.equal(channels[j], channels[k])
    ]
    return [f"channels {pair} hold the same voxels" for pair in pairs]


def _few_values(channels: torch.Tensor) -> list[str]:
    """A label map in the place of a scan; a scan has hundreds of values."""
    step = max(channels.shape[1] // _SAMPLED, 1)
    for k, channel in enumerate(channels):
        sample = channel[::step]
        if len(torch.unique(sample[:_GLANCE])) > _FEWEST:  # to sort all of them takes long
            continue
        values = torch.unique(sample)
        if 1 < len(values) <= _FEWEST and torch.equal(values, values.round()):
            where = f"channel {k + 1} of it" if len(channels) > 1 else "it"
            return [f"{where} holds {len(values)} values: it looks like a mask, not like a scan"]
    return []


def _far_voxels(channels: torch.Tensor, low: list[float], high: list[float]) -> list[str]:
    notes = []
    for k, channel in enumerate(channels):
        sample = channel[:: max(len(channel) // _SAMPLED, 1)].numpy()
        bottom, top = (float(v) for v in np.percentile(sample, (0.1, 99.9)))
        reach = _FAR * (top - bottom)
        if 0 < reach < max(high[k] - top, bottom - low[k]):
            where = f" of channel {k + 1}" if len(channels) > 1 else ""
            notes.append(
                f"a few voxels{where} lie far outside: values go from {low[k]:.4g} to "
                f"{high[k]:.4g}, and nearly all from {bottom:.4g} to {top:.4g}"
            )
    return notes


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
