"""A brain with a tumour, four channels, as MSD Task01 stores it."""

from __future__ import annotations

import numpy as np

from .drawing import Grid, Shape, affine, ball, scan, smooth_noise

# Brightness by tissue: outside, ventricle, grey, white, edema, non-enhancing, enhancing tumour.
_CONTRAST = np.array(
    [
        (0, 0.15, 0.55, 0.45, 0.9, 0.7, 0.8),
        (0, 0.15, 0.5, 0.75, 0.45, 0.35, 0.45),
        (0, 0.15, 0.5, 0.72, 0.45, 0.32, 1.0),
        (0, 1.0, 0.6, 0.45, 0.85, 0.9, 0.65),
    ],
    np.float32,
)


def tumour_phantom(
    rng: np.random.Generator, channels: int = 4, shape: Shape | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a skull-stripped brain with a tumour, as MSD Task01 stores it.

    A non-enhancing core (2) lies in an enhancing rim (3) that is thin in places, and both lie
    inside edema (1). The channels are the first of FLAIR, T1w, T1 with contrast agent and T2w.

    Returns:
        image ``(X, Y, Z, channels)`` float32 (``(X, Y, Z)`` for one channel), 0 outside the brain;
        label ``(X, Y, Z)`` uint8; affine ``(4, 4)``, RAS, 1 mm. 48 to 64 voxels a side without
        ``shape``.
    """
    if shape is None:
        width, length, height = rng.integers(48, 65, 3).tolist()
        shape = (width, length, height)
    grid = np.ix_(*(np.linspace(-1, 1, n, dtype="f4") for n in shape))
    tissue = _brain(rng, shape, grid)
    grain, lump = (smooth_noise(rng, shape, min(shape) * 0.06) for _ in range(2))
    radii = rng.uniform(0.4, 0.55) * rng.uniform(0.9, 1.1, 3)
    inside = ball(grid, rng.uniform(-0.3, 0.3, 3), radii) + 0.1 * lump
    core, rim = rng.uniform(0.3, 0.4), rng.uniform(0.14, 0.22) * (1 + 0.7 * grain)
    label = np.select([inside < 0, inside < core, inside < core + rim], [0, 1, 3], 2)
    label = (label * (tissue > 0)).astype(np.uint8)
    tissue = np.where(label > 0, label + 3, tissue)
    image = np.stack([_channel(rng, row[tissue], tissue > 0) for row in _CONTRAST[:channels]], -1)
    return image[..., 0] if channels == 1 else image, label, affine((1.0, 1.0, 1.0))


def _brain(rng: np.random.Generator, shape: Shape, grid: Grid) -> np.ndarray:
    """Tissue 0 to 3 of ``_CONTRAST``: white matter, a folded grey rim, two ventricles."""
    fold, edge = (smooth_noise(rng, shape, min(shape) * 0.04) for _ in range(2))
    depth = ball(grid, (0, 0, 0), (0.87, 0.92, 0.83))
    ventricles = [ball(grid, (side, 0.05, 0.1), (0.09, 0.4, 0.2)) for side in (-0.13, 0.13)]
    fluid = np.maximum(*ventricles) + 0.05 * edge > 0
    return np.select([depth < 0, depth + 0.05 * fold < 0.16, fluid], [0, 2, 1], 3)


def _channel(rng: np.random.Generator, tissue: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """One sequence: scanned on its own, then stripped of all but the brain."""
    return np.where(brain, scan(rng, tissue) * np.float32(np.exp(rng.uniform(4, 8))), 0)
