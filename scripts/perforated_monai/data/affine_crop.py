"""A random crop that is resampled once: rotation, scaling and cropping in one step."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandAffineGrid, RandomizableTransform
from monai.utils import ensure_tuple_rep
from torch import Tensor
from torch.nn.functional import grid_sample

from ..errors import UserError


class RandAffineCropd(RandomizableTransform, MapTransform):
    """MONAI's ``RandAffined`` followed by ``RandSpatialCropd``, on the voxels of the crop alone.

    The crop's place is uniform over the volume, and its voxels lie where the affine map of the
    whole volume puts them, so the distribution of crops is that of the two transforms in a row.
    Where no map is drawn the crop is cut out unchanged. Beyond the volume its border is repeated.

    It is ours because RandAffined resamples the whole volume, with a grid of its own in float64
    bookkeeping, and MONAI's lazy resampling fuses only ``MetaTensor``, whose bookkeeping costs more
    than the arithmetic of so small a crop.

    Args:
        keys: entries of one shape, ``(C, *space)`` each; they become plain tensors
            ``(C, *roi_size)`` of their own dtype, for their place in the patient is lost.
        roi_size: voxels of the crop; the volume must be at least as large.
        prob: how often the crop is rotated and scaled.
        rotate_range, shear_range, translate_range, scale_range: as in ``RandAffined`` (radians;
            voxels; a scale of 1 plus the drawn value).
        mode: interpolation of each key, ``bilinear`` or ``nearest``.
        allow_missing_keys: leave out entries that are not there.
        foreground: how often the crop is centred on a voxel of the foreground, as far as the volume
            reaches; small structures are in few crops of a large volume otherwise. As in MONAI's
            ``RandCropByPosNegLabeld``, which makes lists; 0 draws no number.
        foreground_key: entry whose first channel is not 0 there; without such a voxel, or without
            the entry, the place is uniform.

    Raises:
        UserError: from calls, for a volume smaller than the crop, or entries of several shapes.
    """

    def __init__(
        self,
        keys: KeysCollection,
        roi_size: Sequence[int],
        prob: float = 0.1,
        rotate_range: Any = None,
        shear_range: Any = None,
        translate_range: Any = None,
        scale_range: Any = None,
        mode: str | Sequence[str] = "bilinear",
        allow_missing_keys: bool = False,
        foreground: float = 0.0,
        foreground_key: str = "label",
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.roi_size = tuple(int(n) for n in roi_size)
        self.mode = ensure_tuple_rep(mode, len(self.keys))
        self.foreground, self.foreground_key = float(foreground), foreground_key
        if not 0 <= self.foreground <= 1:
            msg = f"RandAffineCropd needs foreground from 0 to 1; got {foreground!r}. Correct it."
            raise UserError(msg)
        self.ranges = {
            "rotate_range": rotate_range,
            "shear_range": shear_range,
            "translate_range": translate_range,
            "scale_range": scale_range,
        }

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Crop each entry at the same place, by the same map."""
        result = dict(data)
        tensors = [
            (key, mode, torch.as_tensor(result[key]).as_subclass(Tensor))
            for key, mode in self.key_iterator(result, self.mode)
        ]
        if not tensors:
            return result
        size = tuple(tensors[0][2].shape[1:])
        self._refuse_other_shapes(size, tensors)
        self.randomize(None)
        matrix = self._matrix(size) if self._do_transform else None
        pairs = zip(size, self.roi_size, strict=True)
        corner = [int(self.R.randint(0, whole - part + 1)) for whole, part in pairs]
        if self.foreground and self.R.rand() < self.foreground and self.foreground_key in result:
            label = torch.as_tensor(result[self.foreground_key]).as_subclass(Tensor)
            corner = self._around_foreground(label, matrix, corner)
        if matrix is None:
            inside = [slice(c, c + n) for c, n in zip(corner, self.roi_size, strict=True)]
            for key, _, tensor in tensors:
                result[key] = tensor[(slice(None), *inside)].clone()
            return result
        grid = crop_grid(matrix, size, corner, self.roi_size)
        for key, mode, tensor in tensors:
            found = grid_sample(
                tensor[None].float(), grid, mode=mode, padding_mode="border", align_corners=True
            )
            result[key] = found[0].to(tensor.dtype)
        return result

    def _around_foreground(
        self, label: Tensor, matrix: Tensor | None, corner: list[int]
    ) -> list[int]:
        """First voxel of a crop around a drawn voxel of the foreground; ``corner`` without one."""
        found = torch.nonzero(label[0])
        if len(found) == 0:
            return corner
        centre = found[int(self.R.randint(len(found)))].double()
        size = torch.tensor(label.shape[1:], dtype=torch.float64)
        if matrix is not None:  # it leads from the result, where the crop is, to the volume
            dims = len(size)
            half = (size - 1) / 2
            rows = matrix.double()
            centre = torch.linalg.solve(rows[:dims, :dims], centre - half - rows[:dims, dims])
            centre += half
        first = (centre.round() - torch.tensor(self.roi_size) // 2).tolist()
        return [
            min(max(int(c), 0), int(n) - part)
            for c, n, part in zip(first, size.tolist(), self.roi_size, strict=True)
        ]

    def _matrix(self, size: Sequence[int]) -> Tensor:
        """A drawn affine map, ``(d + 1, d + 1)``, from voxels of the result to those of the volume,
        both counted from the volume's centre.
        """
        drawn = RandAffineGrid(**self.ranges, lazy=True)
        drawn.set_random_state(state=self.R)
        drawn(size)
        matrix = drawn.get_transformation_matrix()
        assert matrix is not None, "lazy keeps it"
        return matrix

    def _refuse_other_shapes(
        self, size: tuple[int, ...], tensors: list[tuple[Hashable, str, Tensor]]
    ) -> None:
        shapes = ", ".join(f"{key} {tuple(tensor.shape)}" for key, _, tensor in tensors)
        if any(tuple(tensor.shape[1:]) != size for _, _, tensor in tensors):
            msg = f"RandAffineCropd needs entries of one shape in space; got {shapes}."
            raise UserError(msg)
        if len(size) != len(self.roi_size) or min(map(int.__sub__, size, self.roi_size)) < 0:
            msg = (
                f"RandAffineCropd cuts {self.roi_size} voxels out of larger volumes; got {shapes}. "
                "Put SpatialPadd before it."
            )
            raise UserError(msg)


def crop_grid(
    matrix: Tensor, size: Sequence[int], corner: Sequence[int], roi_size: Sequence[int]
) -> Tensor:
    """Where the voxels of a crop lie in the volume, for ``grid_sample(align_corners=True)``.

    Args:
        matrix: affine map from result to volume, both counted in voxels from the volume's centre.
        size: voxels of the volume.
        corner: first voxel of the crop in the result.
        roi_size: voxels of the crop.

    Returns:
        ``(1, *roi_size, d)`` float32, the last axis from the last dimension to the first, -1 and 1
        at the centres of the outer voxels.
    """
    dims = len(size)
    half = [(n - 1) / 2 for n in size]
    shapes = [[-1 if i == axis else 1 for i in range(dims)] for axis in range(dims)]
    # Sums of single axes, not a matrix product: bit for bit the same for any number of threads.
    from_centre = [
        torch.arange(n, dtype=torch.float32).add_(c - h).reshape(shape)
        for n, c, h, shape in zip(roi_size, corner, half, shapes, strict=True)
    ]
    grid = torch.empty((1, *roi_size, dims))
    for row in range(dims):
        *weights, shift = (v / max(half[row], 0.5) for v in matrix[row].tolist())
        terms = [w * axis for w, axis in zip(weights, from_centre, strict=True)]
        torch.add(sum(terms[:-1], torch.tensor(shift)), terms[-1], out=grid[0, ..., dims - 1 - row])
    return grid
