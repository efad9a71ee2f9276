"""Slices of a series: whole, alike, and evenly spaced; a slice that is not is named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from ..quiet import without_warnings

EXTRA = "DICOM needs itk, pydicom and highdicom: pip install 'perforated-monai[dicom]'."
_STEP_TOLERANCE = 0.02  # of the slice step; scanners round positions to about a hundredth of a mm
_DIRECTION_TOLERANCE = 1e-3
_FARTHEST = 1e5  # mm; as the rule `origin` of the data check
_FINEST = 1e-3  # mm between pixels
_GREY = ("MONOCHROME1", "MONOCHROME2")  # a palette without its table ends ITK's process
_INVERTED = "MONOCHROME1"  # ITK turns its values around: they are no longer those of the scanner
_SAME = 1e-3  # mm; slices closer than this lie at one place


@dataclass
class Slice:
    """One file of a series; ``name`` may stand in messages."""

    path: Path
    name: str
    header: Any
    position: float = 0.0


def check_slice(s: Slice) -> None:
    """Grey values, geometry, and as many bytes of pixels as the header announces.

    Raises:
        UserError: naming the slice and the rule, never a value of a tag.
    """
    try:
        _check_kind(s)
        _check_geometry(s)
        with without_warnings():  # pydicom's warnings hold values of tags
            _check_pixels(s)
    except UserError:
        raise
    except Exception as error:  # a tag that holds something else than it may; its text may tell it
        msg = f"{s.name} has a damaged header ({type(error).__name__}). Restore it."
        raise UserError(msg) from None


def in_order(slices: list[Slice]) -> list[Slice]:
    """Slices of one size and direction by their place, evenly spaced.

    Raises:
        UserError: naming the slices that are not.
    """
    first = slices[0].header
    for s in slices[1:]:
        h = s.header
        turned = np.abs(np.subtract(h.ImageOrientationPatient, first.ImageOrientationPatient)).max()
        spread = np.abs(np.subtract(h.PixelSpacing, first.PixelSpacing)).max()
        if (h.Rows, h.Columns) != (first.Rows, first.Columns) or turned > 1e-3 or spread > 1e-3:
            msg = (
                f"{s.name} has another size, direction or spacing than {slices[0].name}. Remove it."
            )
            raise UserError(msg)
    row, column = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(row, column)
    for s in slices:
        s.position = float(normal @ np.array(s.header.ImagePositionPatient, float))
    slices = sorted(slices, key=lambda s: s.position)
    _check_steps(slices)
    _check_shift(slices, row, column)
    return slices


def _check_kind(s: Slice) -> None:
    h = s.header
    if int(h.get("NumberOfFrames", 1) or 1) > 1 or "PerFrameFunctionalGroupsSequence" in h:
        msg = (
            f"{s.name} is a multi-frame object; one file a slice is read. Convert it to NIfTI, "
            "for example with dcm2niix."
        )
        raise UserError(msg)
    grey = str(h.get("PhotometricInterpretation", "MONOCHROME2")) in _GREY
    if int(h.get("SamplesPerPixel", 1)) != 1 or not grey:
        msg = f"{s.name} must hold grey values; it has colours. Remove or convert it."
        raise UserError(msg)
    if str(h.get("PhotometricInterpretation", "")) == _INVERTED:
        msg = f"{s.name} is MONOCHROME1, whose values ITK inverts. Convert it with dcm2niix."
        raise UserError(msg)
    if "ModalityLUTSequence" in h:  # ITK passes over it: other values, and no word
        msg = f"{s.name} has a modality LUT, which is not applied here. Convert it to NIfTI."
        raise UserError(msg)
    needed = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "PixelData")
    if missing := [n for n in needed if n not in h]:
        msg = f"{s.name} has no {', '.join(missing)}: it is no slice of a volume. Remove it."
        raise UserError(msg)


def _check_geometry(s: Slice) -> None:
    h = s.header
    numbers = [*h.ImagePositionPatient, *h.ImageOrientationPatient, *h.PixelSpacing]
    if len(numbers) != 11 or not np.isfinite(np.array(numbers, float)).all():
        msg = f"{s.name} must give position, orientation and spacing as finite numbers. Restore it."
        raise UserError(msg)
    if max(abs(float(v)) for v in h.ImagePositionPatient) > _FARTHEST:
        msg = f"{s.name} must lie within 100 m of the scanner's centre. Restore it."
        raise UserError(msg)
    slope, start = (_scaling(h, name) for name in ("RescaleSlope", "RescaleIntercept"))
    if not (np.isfinite([slope, start]).all() and slope):  # ITK takes 0 for 1, and nan for 0
        msg = (
            f"{s.name} must have a finite RescaleSlope that is not 0, and a finite "
            "RescaleIntercept. Restore it."
        )
        raise UserError(msg)
    row, column = np.array(h.ImageOrientationPatient, float).reshape(2, 3)
    lengths = np.array([row @ row, column @ column, 1 + row @ column])
    if (
        min(map(float, h.PixelSpacing)) < _FINEST
        or np.abs(lengths - 1).max() > _DIRECTION_TOLERANCE
    ):
        msg = (
            f"{s.name} must have spacing above 0, of 1 µm or more, and directions at right angles, "
            "of length 1. Restore it."
        )
        raise UserError(msg)


def _scaling(header: Any, name: str) -> float:
    value = header.get(name)
    return 1.0 if value in (None, "") else float(value)


def _check_pixels(s: Slice) -> None:
    h = s.header
    expected = int(h.Rows) * int(h.Columns) * ((int(h.BitsAllocated) + 7) // 8)
    syntax = h.file_meta.get("TransferSyntaxUID")  # a file without preamble has none
    if syntax is not None and syntax.is_compressed:
        try:
            h.pixel_array  # noqa: B018
        except Exception as error:
            msg = f"{s.name} does not decompress ({type(error).__name__}). Restore it."
            raise UserError(msg) from None
    elif len(h.PixelData) < expected:
        msg = (
            f"{s.name} is cut: its pixels have {len(h.PixelData):,} of {expected:,} bytes. "
            "Restore it."
        )
        raise UserError(msg)


def _check_steps(slices: list[Slice]) -> None:
    if len(slices) < 2:
        msg = "a series must have two or more slices; there is one. Give the whole series."
        raise UserError(msg)
    steps = np.diff([s.position for s in slices])
    for k, step in enumerate(steps):
        if step < _SAME:
            names = f"{slices[k].name} and {slices[k + 1].name}"
            msg = f"{names} lie at one place. Remove the duplicate."
            raise UserError(msg)
    step = float(np.median(steps))
    worst = int(np.argmax(np.abs(steps - step)))
    if abs(steps[worst] - step) > max(_STEP_TOLERANCE * step, _SAME):
        before, after = slices[worst].name, slices[worst + 1].name
        msg = (
            f"slices must be evenly spaced; from {before} to {after} it is {steps[worst]:.3f} mm, "
            f"elsewhere {step:.3f} mm: a slice is missing or misplaced. Restore it."
        )
        raise UserError(msg)


def _check_shift(slices: list[Slice], row: np.ndarray, column: np.ndarray) -> None:
    """A tilted gantry shifts slices within their plane; no affine of NIfTI and ITK has that."""
    places = np.array([s.header.ImagePositionPatient for s in slices], float)
    shift = np.abs((places - places[0]) @ np.stack([row, column], 1)).max()
    spacing = float(min(slices[0].header.PixelSpacing))
    if shift > 0.1 * spacing:
        msg = (
            f"slices must lie straight behind each other; they shift by {shift:.2f} mm, as under a "
            "tilted gantry. Convert it to NIfTI with dcm2niix, which corrects the tilt."
        )
        raise UserError(msg)
