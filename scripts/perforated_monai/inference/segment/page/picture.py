"""Three planes of a case, small enough that a thousand fit a page: grey pictures and outlines."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np

from ..planes import PLANES, Plane, centre_of, cut, scale_bar, spacing_of, turned
from .outline import outline
from .png import grey_png

# A thousand cases shall stay below 40 MB, with their rows of the table.
LARGEST = 30_000  # characters of a case
# Tried until a case is small enough: pixels of the longer side, and levels of grey.
_TRIES = ((192, 64), (160, 64), (128, 64), (128, 32), (96, 32), (64, 32), (48, 16))
_MARGIN_MM, _MARGIN = 15.0, 0.3  # around the structures, where a plane must be cut smaller
_WINDOW = (1, 99.5)  # percentiles that become black and white


def draw_planes(
    image: np.ndarray, labels: np.ndarray, affine: np.ndarray, values: list[int]
) -> str:
    """JSON of the sagittal, coronal and axial plane through the centre of all structures.

    A list with an object a plane: ``name``, ``size`` (width and height in mm), ``grid`` (pixels),
    ``png`` (base64), ``outlines`` (a path a structure, in half pixels, empty where it is not in the
    plane), ``letters`` (left, right, bottom, top) and ``bar`` (mm). Planes too large are cut to the
    structures with a margin, then made coarser; at most ``LARGEST`` characters come out of volumes
    with a handful of structures.

    Args:
        image: ``(X, Y, Z)`` grey values.
        labels: ``(X, Y, Z)``, or ``(X, Y, Z, K)`` of 0 and 1.
        affine: voxel to mm, RAS.
        values: label value, or channel, of each structure.
    """
    spacing = spacing_of(affine)
    image, labels = turned(image, affine), turned(labels, affine)
    present = np.asarray(labels > 0 if labels.ndim == 3 else (labels > 0).any(-1))
    centre = centre_of(present)
    box = _box(present, spacing)
    low, high = (float(v) for v in np.percentile(image, _WINDOW))
    planes = []
    for plane in PLANES:
        grey = np.clip((cut(image, plane, centre) - low) / max(high - low, 1e-12), 0, 1)
        planes.append((plane, grey, _flat_masks(cut(labels, plane, centre), values)))
    text = ""
    for side, levels in _TRIES:
        text = json.dumps(
            [_drawn(*parts, box, spacing, side, levels) for parts in planes], separators=(",", ":")
        )
        if len(text) <= LARGEST:
            break
    return text


def _flat_masks(flat: np.ndarray, values: list[int]) -> list[np.ndarray]:
    if flat.ndim == 3:
        return [flat[..., k] > 0 for k in range(flat.shape[-1])]
    return [flat == value for value in values]


def _box(present: np.ndarray, spacing: np.ndarray) -> list[tuple[int, int]]:
    """First and last voxel plus one, along each axis, of the structures with a margin."""
    box = []
    for axis, n in enumerate(present.shape):
        others = tuple(k for k in range(3) if k != axis)
        where = np.flatnonzero(present.any(others))
        first, last = (int(where[0]), int(where[-1]) + 1) if len(where) else (0, n)
        margin = round(max(_MARGIN_MM / spacing[axis], _MARGIN * (last - first)))
        box.append((max(first - margin, 0), min(last + margin, n)))
    return box


def _drawn(
    plane: Plane,
    grey: np.ndarray,
    masks: list[np.ndarray],
    box: list[tuple[int, int]],
    spacing: np.ndarray,
    side: int,
    levels: int,
) -> dict[str, Any]:
    if max(grey.shape) > side:
        rows, columns = slice(*box[plane.up]), slice(*box[plane.across])
        grey, masks = grey[rows, columns], [m[rows, columns] for m in masks]
    factors = tuple(-(-n // side) for n in grey.shape)
    pixels = _coarser(grey, factors)[::-1]  # the highest row comes first
    pixels = np.round(pixels * (levels - 1)) * (255 / (levels - 1))
    height, width = pixels.shape
    size = [
        round(float(width * factors[1] * spacing[plane.across]), 2),
        round(float(height * factors[0] * spacing[plane.up]), 2),
    ]
    return {
        "name": plane.name,
        "size": size,
        "grid": [width, height],
        "png": base64.b64encode(grey_png(np.round(pixels).astype(np.uint8))).decode(),
        "outlines": [outline(_half(m, factors)[::-1]) for m in masks],
        "letters": plane.horizontal + plane.vertical,
        "bar": scale_bar(size[0]),
    }


def _coarser(array: np.ndarray, factors: tuple[int, ...]) -> np.ndarray:
    """Means of blocks; the last ones are filled up with the border's values."""
    if max(factors) == 1:
        return array
    rows, columns = factors
    filling = [(0, -n % factor) for n, factor in zip(array.shape, factors, strict=True)]
    padded = np.pad(array.astype(np.float32), filling, mode="edge")
    height, width = padded.shape
    return padded.reshape(height // rows, rows, width // columns, columns).mean((1, 3))


def _half(mask: np.ndarray, factors: tuple[int, ...]) -> np.ndarray:
    """Blocks that are at least half inside; where there is none, all that are touched."""
    share = _coarser(mask, factors)
    return share >= 0.5 if (share >= 0.5).any() else share > 0
