"""A body in Hounsfield units, slab by slab."""

from __future__ import annotations

import numpy as np

from .drawing import Shape, Slabs, affine, ball

# HU, label, centre and half axes in the half sizes of the volume (x right, y front, z up);
# later ones lie over earlier ones.
_ORGANS = np.array(
    [
        (-100, 0, 0.0, 0.0, 0.0, 0.85, 0.65, 9.0),
        (40, 0, 0.0, 0.0, 0.0, 0.78, 0.58, 9.0),
        (-850, 0, -0.38, 0.05, 0.7, 0.28, 0.42, 0.5),
        (-850, 0, 0.38, 0.05, 0.7, 0.28, 0.42, 0.5),
        (400, 0, 0.0, -0.42, 0.0, 0.09, 0.09, 9.0),
        (60, 1, 0.36, 0.08, 0.05, 0.34, 0.38, 0.22),
        (50, 2, -0.5, -0.18, 0.08, 0.16, 0.2, 0.15),
        (35, 3, 0.28, -0.36, -0.25, 0.11, 0.12, 0.16),
        (35, 3, -0.28, -0.36, -0.22, 0.11, 0.12, 0.16),
    ],
    np.float32,
)


def ct_phantom(
    rng: np.random.Generator, shape: Shape = (512, 512, 600), slab: int = 8
) -> tuple[Slabs, np.ndarray]:
    """Draw a body in Hounsfield units slab by slab, so that a large volume needs little memory.

    Returns:
        an iterator over pairs of image ``(X, Y, <= slab)`` int16 and label ``(X, Y, <= slab)``
        uint8 (1 liver, 2 spleen, 3 kidneys) from foot to head, the same voxels for every ``slab``;
        affine ``(4, 4)``, RAS, 0.8 × 0.8 × 1 mm.
    """
    organs = _ORGANS.copy()
    organs[:, 2:] += rng.normal(0, 0.015, organs[:, 2:].shape)
    return _ct_slabs(rng, organs, shape, slab), affine((0.8, 0.8, 1.0))


def _ct_slabs(rng: np.random.Generator, organs: np.ndarray, shape: Shape, slab: int) -> Slabs:
    x, y, z = np.ix_(*(np.linspace(-1, 1, n, dtype="f4") for n in shape))
    for start in range(0, shape[2], slab):
        part = z[..., start : start + slab]
        image = np.full((*shape[:2], part.shape[2]), -1000, np.int16)
        label = np.zeros(image.shape, np.uint8)
        for hu, value, *ellipsoid in organs:
            inside = ball([x, y, part], ellipsoid[:3], ellipsoid[3:]) > 0
            image[inside], label[inside] = hu, value
        noise = rng.standard_normal((part.shape[2], *shape[:2]), dtype="f4")
        image += (15 * noise.transpose(1, 2, 0)).astype(np.int16)
        yield np.maximum(image, -1024), label
