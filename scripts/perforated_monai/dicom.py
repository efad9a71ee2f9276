"""DICOM: one checked series in (ITK reads the pixels), one DICOM SEG out (highdicom)."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from .errors import UserError
from .files import atomic
from .segment.read import Scan, as_scan

_STEP_TOLERANCE = 0.02  # of the slice step; scanners round positions to about a hundredth of a mm
_SAME = 1e-3  # mm; slices closer than this lie at one place
_EXTRA = "DICOM needs itk, pydicom and highdicom: pip install 'perforated-monai[dicom]'."
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass
class Slice:
    """One file of a series; ``name`` may stand in messages."""

    path: Path
    name: str
    header: Any
    position: float = 0.0


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
        raise UserError(_EXTRA) from None
    slices = _chosen(_headers(files, pydicom, anonymous), series)
    for s in slices:
        _check_slice(s)
    slices = _in_order(slices)
    return _pixels(slices, itk), slices


def write_seg(
    path: Path, labels: np.ndarray, slices: list[Slice], names: dict[int, str], version: str
) -> None:
    """Write a DICOM SEG (binary, one segment a structure) that refers to the source series.

    Args:
        path: file to write, atomically; its folder is made.
        labels: ``(X, Y, Z)`` on the grid of the series.
        slices: of ``read_series``; DICOM requires the patient's data to be copied from them.
        names: label value -> structure.
        version: of the bundle.

    Raises:
        UserError: without highdicom, or for a mask without any structure (DICOM has no empty SEG).
    """
    try:
        import highdicom as hd
        from pydicom.sr.codedict import codes
    except ImportError:
        raise UserError(_EXTRA) from None
    if labels.ndim != 3 or not labels.any():
        msg = "a DICOM SEG needs one mask with at least one labelled voxel; there is none."
        raise UserError(msg)
    algorithm = hd.AlgorithmIdentificationSequence(
        name="perforated-monai", version=version or "0", family=codes.cid7162.ArtificialIntelligence
    )
    described = [
        hd.seg.SegmentDescription(
            segment_number=k,
            segment_label=name,
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=_property(hd, codes, name),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for k, name in enumerate(names.values(), start=1)
    ]
    frames = np.zeros((labels.shape[2], labels.shape[1], labels.shape[0], len(names)), np.uint8)
    for k, value in enumerate(names):
        frames[..., k] = (labels == value).transpose(2, 1, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's name tag values
        found = hd.seg.Segmentation(
            source_images=[s.header for s in slices],
            pixel_array=frames,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=described,
            series_instance_uid=hd.UID(),
            series_number=900,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="Perforated-MONAI",
            manufacturer_model_name="perforated_monai segment",
            software_versions=version or "0",
            device_serial_number="0",
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary:
            found.save_as(temporary)


def _property(hd: Any, codes: Any, name: str) -> Any:
    """The coded structure; a code of our own where the standard has none."""
    if "hippocampus" in name.lower():
        # SNOMED CT 5366008, as in DICOM CID 7140 (brain structures); parts have no code of theirs.
        return hd.sr.CodedConcept("5366008", "SCT", "Hippocampus")
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return hd.sr.CodedConcept(f"L{digest}", "99PERFMONAI", name[:64])


def _headers(files: Sequence[Path], pydicom: Any, anonymous: bool) -> list[Slice]:
    """DICOM files with pixels, by path. A damaged one is refused; other kinds are passed over."""
    found = []
    for number, path in enumerate(sorted(files), start=1):
        name = f"file {number} of {len(files)}" if anonymous else path.name
        marked = _is_marked(path, name)
        if not marked and not path.name.lower().endswith((".dcm", ".ima", ".dicom")):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # they name tag values
                header = pydicom.dcmread(path, force=False)
                header.SeriesInstanceUID, header.SOPClassUID  # noqa: B018
        except Exception as error:
            kind = type(error).__name__  # its text may hold tag values
            msg = f"{name} does not read as DICOM ({kind}): a slice may be lost. Restore it."
            raise UserError(msg) from None
        if "Rows" in header:
            found.append(Slice(path, name, header))
    if not found:
        msg = "the folder holds no DICOM image. Give the folder of a series."
        raise UserError(msg)
    return found


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


def _check_slice(s: Slice) -> None:
    """Grey values, geometry, and as many bytes of pixels as the header announces."""
    h = s.header
    needed = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "PixelData")
    if missing := [n for n in needed if n not in h]:
        msg = f"{s.name} has no {', '.join(missing)}: it is no slice of a volume. Remove it."
        raise UserError(msg)
    numbers = [*h.ImagePositionPatient, *h.ImageOrientationPatient, *h.PixelSpacing]
    if len(numbers) != 11 or not np.isfinite(np.array(numbers, float)).all():
        msg = f"{s.name} must give position, orientation and spacing as finite numbers. Restore it."
        raise UserError(msg)
    if int(h.get("NumberOfFrames", 1) or 1) > 1 or int(h.get("SamplesPerPixel", 1)) != 1:
        msg = f"{s.name} must be one grey slice; it has several frames or colours. Convert it."
        raise UserError(msg)
    expected = int(h.Rows) * int(h.Columns) * ((int(h.BitsAllocated) + 7) // 8)
    compressed = h.file_meta.TransferSyntaxUID.is_compressed
    if not compressed and len(h.PixelData) < expected:
        msg = (
            f"{s.name} is cut: its pixels have {len(h.PixelData):,} of {expected:,} bytes. "
            "Restore it."
        )
        raise UserError(msg)
    if compressed:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                h.pixel_array  # noqa: B018
        except Exception as error:
            msg = f"{s.name} does not decompress ({type(error).__name__}). Restore it."
            raise UserError(msg) from None


def _in_order(slices: list[Slice]) -> list[Slice]:
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
        msg = f"slices must lie straight behind each other; they shift by {shift:.2f} mm. Resample."
        raise UserError(msg)


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
