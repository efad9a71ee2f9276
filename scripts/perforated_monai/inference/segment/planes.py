"""Three planes through the structures of a volume, as every picture of it shows them."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np


@dataclass(frozen=True)
class Plane:
    """A cut; seen from the patient's own side (left is left).

    Attributes:
        name: of the plane.
        axis: patient axis (x, y, z) that it is cut across.
        across: its horizontal patient axis.
        up: its vertical one.
        horizontal: letters at the low and the high end of ``across``.
        vertical: letters at the low and the high end of ``up``.
    """

    name: str
    axis: int
    across: int
    up: int
    horizontal: str
    vertical: str


PLANES = (
    Plane("sagittal", 0, 1, 2, "PA", "IS"),
    Plane("coronal", 1, 0, 2, "LR", "IS"),
    Plane("axial", 2, 0, 1, "LR", "PA"),
)
# Okabe and Ito: colours that colour-blind people can tell apart.
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2")


def spacing_of(affine: np.ndarray) -> np.ndarray:
    """Voxel size in mm along the patient axes (x, y, z) that lie closest."""
    turn = nib.io_orientation(affine)
    spacing = np.empty(3)
    spacing[turn[:, 0].astype(int)] = np.linalg.norm(affine[:3, :3], axis=0)
    return spacing


def turned(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """``(X, Y, Z, ...)`` with axes turned and flipped to the closest of right, anterior, superior.

    A view: nothing is copied.
    """
    return nib.apply_orientation(array, nib.io_orientation(affine))


def centre_of(mask: np.ndarray) -> list[int]:
    """Voxel of a mask ``(X, Y, Z)`` nearest to its centre of mass; the middle of an empty one."""
    where = np.argwhere(mask)
    if not len(where):
        return [n // 2 for n in mask.shape]
    nearest = np.argmin(((where - where.mean(0)) ** 2).sum(1))
    return [int(v) for v in where[nearest]]


def cut(array: np.ndarray, plane: Plane, centre: list[int]) -> np.ndarray:
    """The plane's voxels ``(up, across, ...)`` of a turned array, lowest row first."""
    where: list[slice | int] = [slice(None)] * 3
    where[plane.axis] = centre[plane.axis]
    return np.swapaxes(array[tuple(where)], 0, 1)


def scale_bar(width: float) -> int:
    """Length in mm of 1, 2, 5, 10, ... that is at most a third of ``width`` mm."""
    steps = [base * 10**k for k in range(4) for base in (1, 2, 5)]
    return max((s for s in steps if s <= width / 3), default=1)
