"""Rules on one volume that need its voxels: the file is read to its end."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ...rules import ERROR, WARNING, Broken, rule
from .facts import Facts
from .volume import Volume

LARGEST = 1e10  # no scanner's unit reaches it; PET in Bq/mL stays below 1e9


@rule("finite", "must hold finite numbers only", voxels=True)
def finite(volume: Volume, facts: Facts) -> Iterator[Broken]:
    if volume.content is not None and volume.content.not_finite:
        value = f"{volume.content.not_finite} voxels that are NaN or infinite"
        yield Broken(value, "Repair the export, or leave the case out")


@rule("constant", "must hold more than one value in each channel", voxels=True)
def constant(image: Volume, facts: Facts) -> Iterator[Broken]:
    if image.content is None:
        return
    ends = list(zip(image.content.low, image.content.high, strict=True))
    flat = [k for k, (low, high) in enumerate(ends) if not low < high]
    if flat and len(flat) == len(ends):
        value = f"{ends[0][0]:g} everywhere" if math.isfinite(ends[0][0]) else "no finite voxel"
        yield Broken(value, "Export it again, or leave the case out")
    elif flat:  # a sequence that was not scanned may stand there as zeros on purpose
        value = f"one value in channel {', '.join(map(str, flat))}"
        yield Broken(value, "Export it again, or leave the case out", severity=WARNING)


@rule("extreme", f"must hold values within ±{LARGEST:g}", voxels=True)
def extreme(image: Volume, facts: Facts) -> Iterator[Broken]:
    """One such voxel turns all others into one value when intensities are normalised."""
    if image.content is None:
        return
    ends = [abs(v) for v in (*image.content.low, *image.content.high) if math.isfinite(v)]
    if ends and max(ends) > LARGEST:
        yield Broken(f"{max(ends):.3g}", "Repair the export, or leave the case out")


@rule("label-integer", "must hold whole numbers, of 0 or more", voxels=True)
def label_integer(label: Volume, facts: Facts) -> Iterator[Broken]:
    values = label.content.values if label.content is not None else []
    if odd := [value for value in values if value < 0 or value != round(value)]:
        value = _some(odd)
        yield Broken(value, "Resample labels with nearest neighbour, and save them as uint8")


@rule("label-values", "must hold values that the manifest names", voxels=True)
def label_values(label: Volume, facts: Facts) -> Iterator[Broken]:
    names = facts.manifest.label_names
    values = label.content.values if label.content is not None and names else []
    if other := [v for v in values if v >= 0 and v == round(v) and int(v) not in names]:
        value = f"{_some(other)}, named are {_some(sorted(map(float, names)))}"
        yield Broken(value, "Correct the label or the manifest's label_names")


@rule("label-empty", "must have foreground", WARNING, voxels=True)
def label_empty(label: Volume, facts: Facts) -> Iterator[Broken]:
    if label.content is not None and not any(label.content.values):
        value = "background alone"
        yield Broken(value, "Leave the case out if the object should be there: crops find none")


@rule("trailing", "must end with its last voxel", WARNING, voxels=True)
def trailing(volume: Volume, facts: Facts) -> Iterator[Broken]:
    if volume.content is not None and volume.content.trailing:
        value = f"{volume.content.trailing} bytes behind it"
        cure = "Compare its header with the original: the shape may be wrong"
        if volume.content.trailing_data:  # no padding: the header describes another volume
            yield Broken(value, cure, severity=ERROR)
        else:
            yield Broken(f"{value}, all of them 0", cure)


def _some(values: list[float]) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:5])
    return f"{shown} and {len(values) - 5} more" if len(values) > 5 else shown
