"""One DICOM series -> a volume; pixels by ITK, everything else checked before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from ..quiet import without_warnings
from .kind import HEAD, dicom_kind
from .mixture import refuse_mixture, series_notes
from .slices import EXTRA, Slice, check_slice, in_order

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Asked:
    """What is wanted of a folder's files.

    Attributes:
        series: series UID, or the name of one file of the series; empty for the only one.
        anonymous: name slices by number, not by file.
        modality: as the bundle's metadata.json has it; empty for any.
        any_modality: another modality is a note, not a refusal.
        most_voxels: that memory takes; None for any number.
    """

    series: str = ""
    anonymous: bool = False
    modality: str = ""
    any_modality: bool = False
    most_voxels: int | None = None


@dataclass
class Series:
    """A volume ``array`` (X, Y, Z) float32, voxel to mm ``affine`` (RAS), its files by their place
    along the third axis, and what is odd about it.
    """

    array: np.ndarray
    affine: np.ndarray
    files: list[Path]
    notes: list[str] = field(default_factory=list)


def decode_series(files: Sequence[Path], asked: Asked) -> Series:
    """Read the one series of a folder, or the one asked for; native code may end this process.

    Every file counts: one that does not read is refused, since a slice may be lost in it. Slices
    must be whole, of one patient, one size and one direction, at distinct and evenly spaced
    places, and as many must come out as went in.

    Args:
        files: DICOM files of one folder.
        asked: which series, and what it must be.

    Raises:
        UserError: naming the slice and the rule. No value of a DICOM tag stands in a message.
    """
    try:
        import itk
        import pydicom
    except ImportError:
        raise UserError(EXTRA) from None
    slices = _chosen(_headers(files, pydicom, asked.anonymous), asked.series)
    _refuse_size(slices, asked.most_voxels)
    for s in slices:
        check_slice(s)
    refuse_mixture(slices)
    slices = in_order(slices)
    notes = series_notes(slices, asked.modality, asked.any_modality)
    for s in slices:
        s.header.PixelData = b""  # ITK reads it again: one copy is enough
    array, affine = _pixels(slices, itk)
    return Series(array, affine, [s.path for s in slices], notes)


def _headers(files: Sequence[Path], pydicom: Any, anonymous: bool) -> list[Slice]:
    """Files with pixels, by path. A damaged one is refused; other DICOM objects are passed over."""
    slices = []
    for number, path in enumerate(sorted(files), start=1):
        name = f"file {number} of {len(files)}" if anonymous else path.name
        try:
            bare = _is_bare(path, name)
            with without_warnings():
                header = pydicom.dcmread(path, force=bare)
                header.SeriesInstanceUID, header.SOPClassUID  # noqa: B018
        except UserError:
            raise
        except OSError as error:
            msg = f"{name} cannot be opened ({error.strerror}). Correct its rights."
            raise UserError(msg) from None
        except Exception as error:
            kind = type(error).__name__  # its text may hold tag values
            msg = f"{name} does not read as DICOM ({kind}): a slice may be lost. Restore it."
            raise UserError(msg) from None
        if "Rows" in header:
            slices.append(Slice(path, name, header))
    if not slices:
        msg = "the folder holds no DICOM image. Give the folder of a series."
        raise UserError(msg)
    return slices


def _is_bare(path: Path, name: str) -> bool:
    with path.open("rb") as handle:
        head = handle.read(HEAD)
    bare = dicom_kind(head) == "bare"
    if bare and head.startswith(b"\x02\0"):  # ITK takes it for another kind of file
        msg = f"{name} has lost its preamble and its mark DICM. Restore it, or convert the series."
        raise UserError(msg)
    return bare


def _refuse_size(slices: list[Slice], most: int | None) -> None:
    """Before a pixel is unpacked: a compressed slice may announce anything."""
    voxels = sum(int(s.header.Rows or 0) * int(s.header.get("Columns") or 0) for s in slices)
    if most is not None and voxels > most:
        msg = f"it has {voxels:,} voxels; the memory that is free takes {most:,}. Crop it."
        raise UserError(msg)


def _chosen(slices: list[Slice], series: str) -> list[Slice]:
    by_uid: dict[str, list[Slice]] = {}
    for s in slices:
        by_uid.setdefault(str(s.header.SeriesInstanceUID), []).append(s)
    if series:
        kept = [
            group
            for uid, group in by_uid.items()
            if uid == series or any(s.path.name == series for s in group)
        ]
        if not kept:
            msg = "no series of the folder has the UID, or the file, that --series names."
            raise UserError(msg)
        return kept[0]
    if len(by_uid) > 1:
        groups = ", ".join(f"{len(g)} files with {g[0].name}" for g in by_uid.values())
        msg = (
            f"the folder must hold one series; it holds {len(by_uid)} ({groups}). Choose one with "
            "--series and its UID or one of its file names."
        )
        raise UserError(msg)
    return slices


def _pixels(slices: list[Slice], itk: Any) -> tuple[np.ndarray, np.ndarray]:
    itk.ProcessObject.SetGlobalWarningDisplay(False)  # they name paths
    try:
        image = itk.imread([str(s.path) for s in slices], itk.F)
    except Exception as error:
        msg = f"ITK cannot read the series ({type(error).__name__}). Convert it to NIfTI."
        raise UserError(msg) from None
    array = itk.array_from_image(image).transpose(2, 1, 0)
    header = slices[0].header
    expected = (int(header.Columns), int(header.Rows), len(slices))
    if array.shape != expected:
        msg = (
            f"{len(slices)} slices went in, {array.shape[2]} came out {array.shape}. Restore them."
        )
        raise UserError(msg)
    affine = _affine(slices)
    origin = np.array(image.GetOrigin())
    if np.abs(_LPS_TO_RAS[:3, :3] @ origin - affine[:3, 3]).max() > 0.01:
        msg = "ITK places the series elsewhere than its slices say. Convert it to NIfTI."
        raise UserError(msg)
    return np.ascontiguousarray(array, np.float32), affine


def _affine(slices: list[Slice]) -> np.ndarray:
    """Voxel (column, row, slice) to mm in RAS."""
    first, last = slices[0].header, slices[-1].header
    row, column = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = map(float, first.PixelSpacing)
    start, end = (np.array(h.ImagePositionPatient, float) for h in (first, last))
    lps = np.eye(4)
    lps[:3, 0] = row * between_columns
    lps[:3, 1] = column * between_rows
    lps[:3, 2] = (end - start) / (len(slices) - 1)
    lps[:3, 3] = start
    return _LPS_TO_RAS @ lps
