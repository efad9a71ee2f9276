"""Volumes of structures beside those of the training labels: which masks are worth a look."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ...errors import UserError
from .table import measure_structures

# Iglewicz and Hoaglin, How to Detect and Handle Outliers, ASQC 1993: 0.6745 makes the median
# absolute deviation of a normal distribution its standard deviation, and 3.5 is their limit.
_TO_DEVIATION = 0.6745
OUTLIER = 3.5
_PERCENTILES = (0, 5, 25, 50, 75, 95, 100)


@dataclass(frozen=True)
class TrainingVolumes:
    """Volumes of one structure in the training labels.

    Attributes:
        cases: how many labels were measured; one without the structure counts as 0 mL.
        percentiles_ml: percentile (0, 5, 25, 50, 75, 95, 100) -> mL.
        mad_ml: median absolute deviation from the median, mL.
    """

    cases: int
    percentiles_ml: Mapping[int, float]
    mad_ml: float

    def robust_z(self, ml: float) -> float | None:
        """0.6745 · (mL − median) / MAD, by Iglewicz and Hoaglin; None where MAD is 0."""
        if self.mad_ml <= 0:
            return None
        return _TO_DEVIATION * (ml - self.percentiles_ml[50]) / self.mad_ml

    @property
    def limits_ml(self) -> tuple[float, float]:
        """Volumes at which the robust z-score is −3.5 and 3.5."""
        half = OUTLIER * self.mad_ml / _TO_DEVIATION
        return self.percentiles_ml[50] - half, self.percentiles_ml[50] + half


def measure_volumes(labels: Iterable[str | Path], names: dict[int, str]) -> dict[str, Any]:
    """Volumes of structures in label files; the value of ``training_volumes``.

    No command writes it, for only the bundle's author knows which volumes the network was trained
    on: call this on their labels and put the result under ``segment::training_volumes`` in
    metadata.json.

    Args:
        labels: NIfTI files of label values.
        names: label value -> name of the structure, as in ``channel_def``.
    """
    found: dict[str, list[float]] = {name: [] for name in names.values()}
    for file in labels:
        image: Any = nib.load(file)
        values = np.asarray(image.dataobj).round().astype(np.int32)
        for structure in measure_structures(values, image.affine, names):
            found[structure.name].append(structure.volume_ml)
    return {name: _summary(np.array(values)) for name, values in found.items()}


def read_volumes(value: Any) -> dict[str, TrainingVolumes]:
    """What ``measure_volumes`` made, from JSON; empty where a bundle has none.

    Raises:
        UserError: for anything else.
    """
    try:
        return {
            str(name): TrainingVolumes(
                int(entry["cases"]),
                {p: float(entry["percentiles_ml"][str(p)]) for p in _PERCENTILES},
                float(entry["mad_ml"]),
            )
            for name, entry in (value or {}).items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        msg = (
            "segment::training_volumes of metadata.json must be what measure_volumes gives; reading"
            f" it gives {type(error).__name__}: {error}. Measure the labels again."
        )
        raise UserError(msg) from None


def _summary(values: np.ndarray) -> dict[str, Any]:
    median = float(np.median(values))
    return {
        "cases": len(values),
        "percentiles_ml": {str(p): round(float(np.percentile(values, p)), 4) for p in _PERCENTILES},
        "mad_ml": round(float(np.median(np.abs(values - median))), 4),
    }
