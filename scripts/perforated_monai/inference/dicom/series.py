"""One DICOM series -> a volume; pixels by ITK, everything else checked before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ...errors import UserError
from ..quiet import without_warnings
from ..scan import Scan, as_scan
from .slices import EXTRA, Slice, check_slice, in_order

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_series(
    files: Sequence[Path], series: str = "", anonymous: bool = False
) -> tuple[Scan, list[Slice]]:
    """Read the one series of a folder, or the one asked for.

    Every file counts: a DICOM file that does not read is refused, since a slice may be lost in it;
    other files are passed over. Slices must be whole, of one size and direction, at distinct and
    evenly spaced places, and as many must come out as went in.

    Args:
        files: everything in the folder.
        series: series UID, or the name of one file of the series.
        anonymous: name slices by number, not by file.

    Returns:
        the volume, and its slices in the order of its third axis.

    Raises:
        UserError: naming the slice and the rule. No value of a DICOM tag stands in a message.
    """
    try:
        import itk
        import pydicom
    except ImportError:
        raise UserError(EXTRA) from None
    slices = _chosen(_headers(files, pydicom, anonymous), series)
    for s in slices:
        check_slice(s)
    slices = in_order(slices)
    return _pixels(slices, itk), slices


def _headers(files: Sequence[Path], pydicom: Any, anonymous: bool) -> list[Slice]:
    """DICOM files with pixels, by path. A damaged one is refused; other kinds are passed over."""
    slices = []
    for number, path in enumerate(sorted(files), start=1):
        name = f"file {number} of {len(files)}" if anonymous else path.name
        marked = _is_marked(path, name)
        if not marked and not path.name.lower().endswith((".dcm", ".ima", ".dicom")):
            continue
        try:
            with without_warnings():
                header = pydicom.dcmread(path, force=False)
                header.SeriesInstanceUID, header.SOPClassUID  # noqa: B018
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


def _is_marked(path: Path, name: str) -> bool:
    try:
        with path.open("rb") as handle:
            return handle.read(132)[128:] == b"DICM"
    except OSError as error:
        msg = f"{name} cannot be opened ({error.strerror}). Correct its rights."
        raise UserError(msg) from None


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


def _pixels(slices: list[Slice], itk: Any) -> Scan:
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
    return as_scan([nib.Nifti1Image(array, affine)])


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
