"""What a mask says about itself: volumes and connected components of its structures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

_TOUCHING = np.ones((3, 3, 3))  # voxels that share a corner belong together


@dataclass(frozen=True)
class Structure:
    """One labelled structure: its volume in mL and its number of connected components."""

    name: str
    volume_ml: float
    components: int


def measure_structures(
    labels: np.ndarray, affine: np.ndarray, names: dict[int, str]
) -> list[Structure]:
    """Volume and components (26 neighbours) of each structure.

    Args:
        labels: ``(X, Y, Z)`` of label values, or ``(X, Y, Z, K)`` of 0 and 1.
        affine: voxel to mm.
        names: label value, or channel, -> name.
    """
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    found = []
    boxes = ndimage.find_objects(labels) if labels.ndim == 3 else []
    for value, name in names.items():
        if labels.ndim == 4:
            part = labels[..., value] > 0
        elif value <= len(boxes) and boxes[value - 1] is not None:
            part = labels[boxes[value - 1]] == value
        else:
            part = np.zeros((1, 1, 1), bool)
        voxels = int(np.count_nonzero(part))
        components = int(ndimage.label(part, _TOUCHING)[1]) if voxels else 0
        found.append(Structure(name, voxels * voxel_ml, components))
    return found
