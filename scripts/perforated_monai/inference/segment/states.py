"""Records of a run: what it was asked for, and a volume prepared, predicted and segmented."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from ...errors import UserError
from .reduce import Confidence


@dataclass(kw_only=True)
class Options:
    """What a run of ``segment`` is asked for beside the segmenter's own options.

    Attributes:
        workers: cases in work at a time; None takes as many as the machine and the engine suit.
        resume: keep what an earlier run did from the same input with the same settings.
        preview: also write a PNG a case.
        anonymous: name cases and masks by a hash of their path.
        series: which DICOM series, where a folder holds several.
        dicom_seg: also write a DICOM SEG for DICOM input.
        progress: say on stderr what is done.

    Raises:
        UserError: for options that do not go together.
    """

    workers: int | None = None
    resume: bool = False
    preview: bool = False
    anonymous: bool = False
    series: str = ""
    dicom_seg: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            msg = f"--workers must be at least 1; got {self.workers}."
            raise UserError(msg)
        if self.dicom_seg and self.anonymous:
            msg = "--dicom-seg copies patient data, as DICOM requires: it cannot be --anonymous."
            raise UserError(msg)


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
