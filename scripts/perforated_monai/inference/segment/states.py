"""A volume on its way: prepared for the network, predicted, and segmented on its own grid."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from .reduce import Confidence


@dataclass
class Prepared:
    """A volume after the bundle's preprocessing: what the network and the inverse need."""

    data: dict[str, Any]
    shape: tuple[int, ...]
    affine: np.ndarray
    notes: list[str] = field(default_factory=list)


@dataclass
class Predicted:
    """Labels ``(1 or K, x, y, z)`` on the network's grid, or logits where the bundle wants them."""

    prepared: Prepared
    pred: Tensor
    confidence: Confidence
    reduced: bool
    probabilities: np.ndarray | None


@dataclass
class Segmentation:
    """A mask on the grid of the volume it was made from.

    Attributes:
        labels: ``(X, Y, Z)`` of label values, or ``(X, Y, Z, K)`` of 0 and 1 where the bundle's
            channels are independent.
        confidence: of the chosen labels, over all structures, on the network's grid.
        probabilities: ``(X, Y, Z, K)`` float32, when asked for.
        notes: what was done in another way than usual, and why.
    """

    labels: np.ndarray
    confidence: Confidence
    probabilities: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)
