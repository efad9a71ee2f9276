"""One DICOM SEG of a mask, that refers to the slices of its series."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from ...files import atomic
from ..quiet import without_warnings
from .slices import EXTRA


def write_seg(
    path: Path, labels: np.ndarray, files: Sequence[Path], names: dict[int, str], version: str
) -> None:
    """Write a DICOM SEG (binary, one segment a structure) that refers to the source series.

    Args:
        path: file to write, atomically; its folder is made.
        labels: ``(X, Y, Z)`` on the grid of the series.
        files: of ``read_series``; DICOM requires the patient's data to be copied from them.
        names: label value -> structure.
        version: of the bundle.

    Raises:
        UserError: without highdicom, or for a mask without any structure (DICOM has no empty SEG).
    """
    try:
        import highdicom as hd
        import pydicom
        from pydicom.sr.codedict import codes
    except ImportError:
        raise UserError(EXTRA) from None
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
    with without_warnings():
        segmentation = hd.seg.Segmentation(
            source_images=[pydicom.dcmread(f, stop_before_pixels=True, force=True) for f in files],
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
            segmentation.save_as(temporary)


def _property(hd: Any, codes: Any, name: str) -> Any:
    """The coded structure; a code of our own where the standard has none."""
    if "hippocampus" in name.lower():
        # SNOMED CT 5366008, as in DICOM CID 7140 (brain structures); parts have no code of theirs.
        return hd.sr.CodedConcept("5366008", "SCT", "Hippocampus")
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return hd.sr.CodedConcept(f"L{digest}", "99PERFMONAI", name[:64])
