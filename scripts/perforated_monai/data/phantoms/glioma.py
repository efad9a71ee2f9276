"""A head with a tumour that takes up contrast: one channel, thick slices, padded with zeros."""

from __future__ import annotations

import numpy as np

from .drawing import Shape, affine
from .tumour import tumour_phantom

_CONTRAST_CHANNEL, _ENHANCING = 2, 3
_PADDED = 2  # slices of zeros at the upper end


def glioma_phantom(
    rng: np.random.Generator, shape: Shape | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw T1 with contrast agent, as resized and padded public volumes store it.

    Its header says 1 mm although slices are thick: the true spacing is lost, as in such volumes.

    Returns:
        image ``(X, Y, Z)`` float32, 0 outside the brain and in the last two slices; label
        ``(X, Y, Z)`` uint8, 1 where the tumour takes up contrast; affine ``(4, 4)``, RAS, 1 mm.
        176 × 176 × 20 voxels without ``shape``.
    """
    shape = shape or (176, 176, 20)
    image, label, _ = tumour_phantom(rng, _CONTRAST_CHANNEL + 1, shape)
    image, label = image[..., _CONTRAST_CHANNEL], (label == _ENHANCING).astype(np.uint8)
    image[..., -_PADDED:], label[..., -_PADDED:] = 0, 0
    return image, label, affine((1.0, 1.0, 1.0))
