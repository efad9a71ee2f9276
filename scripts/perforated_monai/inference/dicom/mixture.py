"""What slices say about their series: one patient, one frame of reference, none missing."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import UserError
from .slices import Slice

# Tags that all slices of a volume share; their values are patient data and stand in no message.
_SHARED = {
    "PatientID": "patient",
    "PatientName": "patient",
    "StudyInstanceUID": "study",
    "FrameOfReferenceUID": "frame of reference",
    "Modality": "modality",
    "PhotometricInterpretation": "photometric interpretation",
}
_TOLERANCE = 0.02  # of the slice step
_MODALITIES = {"MRI": "MR", "CTA": "CT", "PET": "PT"}


def refuse_mixture(slices: list[Slice]) -> None:
    """Refuse slices of two patients, studies or frames of reference under one series.

    Raises:
        UserError: naming two slices that differ.
    """
    first = slices[0]
    for tag, what in _SHARED.items():
        for s in slices[1:]:
            if _text(s.header, tag) != _text(first.header, tag):
                msg = (
                    f"all slices must be of one {what}; {first.name} and {s.name} are not. Take "
                    "out what does not belong to the series."
                )
                raise UserError(msg)


def series_notes(slices: list[Slice], modality: str, any_modality: bool) -> list[str]:
    """What is odd about a series in the order of its slices.

    Raises:
        UserError: for a modality unlike the bundle's, or fewer slices than the series says.
    """
    notes = [*_modality(slices[0].header, modality, any_modality)]
    notes += _count(slices)
    notes += _numbers(slices)
    notes += _spacing(slices)
    return notes


def _modality(header: Any, modality: str, any_modality: bool) -> list[str]:
    wanted = modality.upper().strip()
    wanted = _MODALITIES.get(wanted, wanted)
    found = _text(header, "Modality")
    if not (wanted.isalpha() and len(wanted) == 2) or found == wanted:
        return []
    if not found:
        return [f"the bundle is for modality {wanted}; the series gives none"]
    found = found if found.isalnum() and len(found) <= 4 else "another"
    text = f"the bundle is for modality {wanted}; the series says {found}"
    if any_modality:
        return [f"out of range: {text}"]
    msg = f"{text}. Give the right series, or use --allow-out-of-range."
    raise UserError(msg)


def _count(slices: list[Slice]) -> list[str]:
    """Against the numbers of images that the series itself gives."""
    header, count = slices[0].header, len(slices)
    series = _number(header, "NumberOfSeriesRelatedInstances")
    if series is not None and series > count:
        msg = f"the series says that it has {series:g} images; {count} are here. Add the missing."
        raise UserError(msg)
    for tag in ("ImagesInAcquisition", "NumberOfSlices"):
        said = _number(header, tag)
        if said is not None and said > count:
            return [f"slices may be missing: {tag} is {said:g}, and {count} are here"]
    return []


def _numbers(slices: list[Slice]) -> list[str]:
    """Instance numbers along the third axis: from 1 on, and without jumps."""
    numbers = [_number(s.header, "InstanceNumber") for s in slices]
    known = np.array([n for n in numbers if n is not None])
    if len(known) < len(slices) or len(known) < 2:
        return []
    steps = np.abs(np.diff(known))
    if known.min() > 1 and (steps == 1).all():
        first = int(known.min())
        return [f"slices may be missing at an end: instance numbers begin at {first}"]
    if (steps == steps[0]).all() and steps[0] > 1:
        return [f"slices may be missing: instance numbers go by {int(steps[0])}"]
    return []


def _spacing(slices: list[Slice]) -> list[str]:
    """The step between slices against what the header says of it."""
    step = (slices[-1].position - slices[0].position) / (len(slices) - 1)
    said = _number(slices[0].header, "SpacingBetweenSlices")
    thickness = _number(slices[0].header, "SliceThickness")
    if said is not None and abs(said) > 0:
        if abs(step - abs(said)) <= max(_TOLERANCE * step, 1e-3):
            return []
        return [
            f"slices may be missing: they lie {step:.4g} mm apart, and SpacingBetweenSlices is "
            f"{abs(said):.4g} mm"
        ]
    if thickness and step > 1.9 * thickness:
        return [
            f"slices may be missing: they lie {step:.4g} mm apart, and are {thickness:.4g} mm thick"
        ]
    return []


def _text(header: Any, tag: str) -> str:
    value = header.get(tag, "")
    return "" if value is None else str(value).strip()


def _number(header: Any, tag: str) -> float | None:
    try:
        value = float(header.get(tag))
    except (TypeError, ValueError):
        return None
    return value if np.isfinite(value) else None
