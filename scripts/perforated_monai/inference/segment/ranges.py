"""Size and spacing of the training volumes, and whether another volume resembles them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

TOLERANCE = 1.5


def measure_ranges(files: Iterable[str | Path]) -> dict[str, Any]:
    """Lowest and highest extent and spacing, in mm, of volumes; the value of ``training_ranges``.

    Axes are the volume's own, named by the closest patient axis: left-right, posterior-anterior,
    inferior-superior. ``tolerance`` is the factor by which a volume may lie beyond: augmentation
    scales by 15 %, and patients differ more than a few hundred of them.
    """
    sizes, spacings = [], []
    for file in files:
        image: Any = nib.load(file)
        size, spacing = extent(image.shape[:3], image.affine)
        sizes.append(size)
        spacings.append(spacing)
    return {
        "axes": ["left-right", "posterior-anterior", "inferior-superior"],
        "cases": len(sizes),
        "size_mm": _span(sizes),
        "spacing_mm": _span(spacings),
        "tolerance": TOLERANCE,
        "rule": "accepted from lowest / tolerance to highest × tolerance on each axis",
    }


def outside_ranges(
    shape: Sequence[int], affine: np.ndarray, ranges: dict[str, Any] | None
) -> str | None:
    """Why a volume ``shape`` (X, Y, Z) is unlike the training volumes; None when it is not."""
    if not ranges:
        return None
    factor = float(ranges.get("tolerance", TOLERANCE))
    measured = dict(zip(("size_mm", "spacing_mm"), extent(shape, affine), strict=True))
    for key, what in (("spacing_mm", "voxel size"), ("size_mm", "extent")):
        for axis, value, (low, high) in zip(
            ranges["axes"], measured[key], ranges.get(key, []), strict=False
        ):
            if not low / factor * 0.999 <= value <= high * factor * 1.001:
                return (
                    f"its {axis} {what} is {value:.4g} mm; the network was trained on {low:g} to "
                    f"{high:g} mm and accepts {low / factor:.3g} to {high * factor:.3g}"
                )
    return None


def extent(shape: Sequence[int], affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Extent and voxel size in mm along the axes closest to x, y and z."""
    axes = nib.io_orientation(affine)[:, 0].astype(int)
    spacing = np.empty(3)
    voxels = np.empty(3)
    spacing[axes] = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)
    voxels[axes] = np.asarray(shape[:3])
    return spacing * voxels, spacing


def _span(values: list[np.ndarray]) -> list[list[float]]:
    table = np.array(values)
    lows, highs = table.min(0), table.max(0)
    return [[round(float(a), 3), round(float(b), 3)] for a, b in zip(lows, highs, strict=True)]
