"""A case's files: checked by their headers, read, and preprocessed as the bundle says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib

from ...errors import UserError
from ..scan import Scan, as_scan
from .cases import Case
from .header import Header
from .read import read_headers, read_nifti
from .segmenter import Segmenter
from .states import Options, Prepared

LARGEST_SLICE = 2**30  # bytes


@dataclass(frozen=True)
class Read:
    """A case that was read and preprocessed, and what its files were like before."""

    stamps: list[tuple[int, ...]]
    nifti: nib.Nifti1Header | None
    series: list[Path] | None
    prepared: Prepared


def check_headers(case: Case, segmenter: Segmenter, options: Options) -> list[Header]:
    """Headers of a case's NIfTI files; of a DICOM series none.

    Raises:
        UserError: for a case, or a volume, that cannot be done; no voxel was read.
    """
    if case.problem:
        raise UserError(case.problem)
    if case.dicom:
        _refuse_large_slices(case, options)
        return []
    headers = read_headers(case.files, segmenter.bundle.channels, options.anonymous)
    segmenter.check_range(headers[0].shape, headers[0].affine)
    segmenter.check_memory(headers[0].voxels)
    return headers


def read_scan(
    case: Case, segmenter: Segmenter, options: Options, headers: list[Header]
) -> tuple[Scan, list[Path] | None]:
    """A case's volume, and its files by their place where it is a DICOM series."""
    bundle = segmenter.bundle
    if not case.dicom:
        return read_nifti(case.files, bundle.channels, headers, options.anonymous), None
    from ..dicom import Asked, read_series

    asked = Asked(
        series=options.series,
        anonymous=options.anonymous,
        modality=bundle.modality,
        any_modality=segmenter.allow_out_of_range,
        most_voxels=segmenter.most_voxels(),
    )
    series = read_series(case.files, asked)
    scan = as_scan([nib.Nifti1Image(series.array, series.affine)])
    scan.notes += series.notes
    segmenter.check_range(scan.shape, scan.affine)
    return scan, series.files


def read_case(case: Case, segmenter: Segmenter, options: Options, headers: list[Header]) -> Read:
    """A case's volume after the bundle's preprocessing."""
    stamps = stamps_of(case)
    scan, series = read_scan(case, segmenter, options, headers)
    return Read(stamps, scan.nifti, series, segmenter.prepare(scan))


def stamps_of(case: Case) -> list[tuple[int, ...]]:
    """Size and times of a case's files, and of its folder where that is the series."""
    folders = {path.parent for path in case.files} if case.dicom else set()
    found = [path.stat() for path in (*case.files, *sorted(folders))]
    return [(s.st_size, s.st_mtime_ns, s.st_ino) for s in found]


def _refuse_large_slices(case: Case, options: Options) -> None:
    """Before a byte is hashed: a sparse file may be larger than any disk."""
    for number, path in enumerate(case.files, start=1):
        size = path.stat().st_size
        if size > LARGEST_SLICE:
            name = f"file {number}" if options.anonymous else path.name
            msg = (
                f"{name} of the series has {size:,} bytes; one slice has at most "
                f"{LARGEST_SLICE:,}. Restore or remove it."
            )
            raise UserError(msg)
