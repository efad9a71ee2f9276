"""What every phantom is drawn with: fields, contrast, noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage

Shape = tuple[int, int, int]

Triple = Sequence[float] | np.ndarray

Slabs = Iterator[tuple[np.ndarray, np.ndarray]]

Grid = Sequence[np.ndarray]  # coordinates x, y, z of every sample, or broadcasting to that


def ball(grid: Grid, centre: Triple, radii: Triple) -> np.ndarray:
    """1 at the centre of an ellipsoid, 0 on its surface, negative outside."""
    terms = [
        ((a - np.float32(c)) / np.float32(r)) ** 2
        for a, c, r in zip(grid, centre, radii, strict=True)
    ]
    return 1 - np.sqrt(terms[0] + terms[1] + terms[2])


def scan(rng: np.random.Generator, tissue: np.ndarray) -> np.ndarray:
    """What a scanner makes of it: a smooth bias field, some blur, Rician noise."""
    x, y, z = np.ix_(*(np.linspace(-1, 1, n, dtype="f4") for n in tissue.shape))
    b = rng.normal(0, 0.1, 6).astype("f4")
    bias = np.exp(b[0] * x + b[1] * y + b[2] * z + b[3] * x * y + b[4] * y * z + b[5] * z * z)
    clean = ndimage.gaussian_filter(tissue * bias, rng.uniform(0.35, 0.55), truncate=3)
    real, imaginary = rng.standard_normal((2, *tissue.shape), dtype="f4") * rng.uniform(0.02, 0.045)
    return np.sqrt((clean + real) ** 2 + imaginary**2)


def smooth_noise(rng: np.random.Generator, shape: Shape, sigma: float) -> np.ndarray:
    """Gaussian random field of unit variance, smooth over ``sigma`` voxels."""
    field = ndimage.gaussian_filter(
        rng.standard_normal(shape, dtype="f4"), sigma, mode="wrap", truncate=3
    )
    return field / field.std()


def affine(spacing: tuple[float, float, float]) -> np.ndarray:
    """RAS; the origin is not 0, as in MSD, so that a lost affine shows."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = 1
    return affine
