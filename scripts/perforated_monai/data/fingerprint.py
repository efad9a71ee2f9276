"""What a dataset looks like as numbers: spacing, size and intensity of its training cases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ..errors import UserError
from .layout import dataset_root, present
from .manifest import Manifest

FEWEST = 2  # one case says nothing about how cases differ
MOST_READ = 100  # volumes whose voxels are read; more hardly move a percentile
_SAMPLE = 10_000  # voxels of the foreground of a case, as nnU-Net draws them


@dataclass(frozen=True)
class Intensity:
    """Values of one channel inside the labelled structures.

    Attributes:
        name: of the channel.
        low, median, high: percentiles 0.5, 50 and 99.5.
        mean, deviation: mean and standard deviation.
    """

    name: str
    low: float
    median: float
    high: float
    mean: float
    deviation: float


@dataclass(frozen=True)
class Fingerprint:
    """Numbers of the cases that may be trained on; axes are those of RAS, as the bundles turn them.

    Attributes:
        name: of the manifest.
        cases: how many.
        read: how many of them had their voxels read.
        spacings: mm of a voxel along each axis, `(read, 3)`.
        shapes: voxels along each axis, `(read, 3)`.
        filled: voxels of the box around what is not 0, `(read, 3)`; smaller in padded volumes.
        zeros: share of voxels that are 0, median of cases.
        labelled: share of voxels with a label above 0, median of cases.
        intensities: of each channel.
        classes: label values, the background among them.
    """

    name: str
    cases: int
    read: int
    spacings: np.ndarray
    shapes: np.ndarray
    filled: np.ndarray
    zeros: float
    labelled: float
    intensities: list[Intensity]
    classes: int

    def text(self) -> str:
        """A small table: lowest, median and highest of spacing and size, and the intensities."""
        rows = [
            f"{self.read} of {self.cases} training cases of {self.name} measured; axes are "
            "left-right, posterior-anterior, inferior-superior",
            f"{'':<16}{'lowest':>20}{'median':>20}{'highest':>20}",
            _row("spacing, mm", self.spacings),
            _row("size, voxels", self.shapes),
        ]
        if (self.filled < self.shapes).any():
            rows.append(_row("not 0, voxels", self.filled))
        share = f"0 are {self.zeros:.0%} of a volume's voxels, labelled are {self.labelled:.2%}"
        rows.append(f"{share} (medians)")
        rows += [
            f"{i.name} inside labels: mean {i.mean:.4g}, standard deviation {i.deviation:.4g}, "
            f"percentiles 0.5, 50, 99.5: {i.low:.4g}, {i.median:.4g}, {i.high:.4g}"
            for i in self.intensities
        ]
        return "\n".join(rows)


def measure(manifest: Manifest, dataset_dir: str | Path) -> Fingerprint:
    """Read the cases outside the test part, at most a hundred of them, evenly spread.

    The test part is left out: a plan that has seen it would make its scores too high.

    Raises:
        UserError: fewer than two such cases in the folder, or a volume that cannot be read.
    """
    root = dataset_root(dataset_dir)
    ids = sorted(set(manifest.cases) - set(manifest.test))
    ids = [case for case, there in zip(ids, present(root, manifest, ids), strict=True) if there]
    if len(ids) < FEWEST:
        msg = (
            f"a plan needs at least {FEWEST} training cases, since it follows how they differ; "
            f"{root} has {len(ids)}. Add cases or correct the folder."
        )
        raise UserError(msg)
    chosen = [ids[i] for i in np.linspace(0, len(ids) - 1, min(len(ids), MOST_READ)).astype(int)]
    measured = [_measure_case(root, *manifest.files(case)) for case in chosen]
    channels = min(len(case.values) for case in measured)
    names = manifest.channel_names or [f"channel {k}" for k in range(channels)]
    labels = manifest.label_names or {0}.union(*(case.labels for case in measured))
    columns: list[list[np.ndarray]] = [
        [case.values[k] for case in measured] for k in range(len(names))
    ]
    return Fingerprint(
        name=manifest.name,
        cases=len(ids),
        read=len(chosen),
        spacings=np.array([case.spacing for case in measured]),
        shapes=np.array([case.shape for case in measured]),
        filled=np.array([case.filled for case in measured]),
        zeros=float(np.median([case.zeros for case in measured])),
        labelled=float(np.median([case.labelled for case in measured])),
        intensities=list(_intensities(names, columns)),
        classes=max(2, len(labels)),
    )


@dataclass(frozen=True)
class _Case:
    spacing: np.ndarray
    shape: np.ndarray
    filled: np.ndarray
    zeros: float
    labelled: float
    values: list[np.ndarray]
    labels: set[int]


def _measure_case(root: Path, image_file: str, label_file: str) -> _Case:
    try:
        image: Any = nib.load(root / image_file)
        voxels = np.asanyarray(image.dataobj)
        label = np.asanyarray(nib.load(root / label_file).dataobj)  # type: ignore[attr-defined]
    except Exception as error:  # nibabel raises nearly anything for a damaged file
        msg = (
            f"{root / image_file} or its label cannot be read: {error}. Run `check` on the folder."
        )
        raise UserError(msg) from error
    voxels = voxels.reshape(*voxels.shape[:3], -1)
    mask = label.reshape(label.shape[:3]) > 0
    some = (voxels != 0).any(3)
    # Where each axis of RAS is among the volume's own.
    order = np.argsort(nib.orientations.io_orientation(image.affine)[:, 0])
    spacing = np.sqrt((image.affine[:3, :3] ** 2).sum(0))
    inside = np.flatnonzero(mask if mask.any() else some)
    drawn = np.random.default_rng(0).choice(inside, min(len(inside), _SAMPLE), replace=False)
    flat = voxels.reshape(-1, voxels.shape[3])
    return _Case(
        spacing=spacing[order],
        shape=np.array(mask.shape)[order],
        filled=_box(some)[order],
        zeros=1 - float(some.mean()),
        labelled=float(mask.mean()),
        values=[flat[drawn, k].astype(np.float64) for k in range(flat.shape[1])],
        labels={int(value) for value in np.unique(label[np.isfinite(label)])},
    )


def _box(some: np.ndarray) -> np.ndarray:
    """Size of the box around what is true; the whole size where nothing is."""
    if not some.any():
        return np.array(some.shape)
    lines = [np.flatnonzero(some.any(tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return np.array([line[-1] - line[0] + 1 for line in lines])


def _intensities(names: Sequence[str], columns: list[list[np.ndarray]]) -> Iterator[Intensity]:
    for name, column in zip(names, columns, strict=True):
        values = np.concatenate(column)
        values = values[np.isfinite(values)]
        low, median, high = np.percentile(values, [0.5, 50, 99.5]) if len(values) else (0, 0, 0)
        mean, deviation = (values.mean(), values.std()) if len(values) else (0.0, 0.0)
        yield Intensity(name, *map(float, (low, median, high, mean, deviation)))


def _row(name: str, values: np.ndarray) -> str:
    ends = (values.min(0), np.median(values, axis=0), values.max(0))
    return f"{name:<16}" + "".join(f"{' x '.join(f'{v:.4g}' for v in row):>20}" for row in ends)
