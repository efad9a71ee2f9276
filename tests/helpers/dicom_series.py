"""DICOM series of small volumes, written with pydicom, one file a slice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.segment_bundle import rotation

pydicom = pytest.importorskip("pydicom", reason="install perforated-monai[dicom]")

SECRET = "DOE^JANE"
SPACING = (0.8, 1.1, 2.0)  # columns, rows, slices


def write_series(
    folder: Path, values: np.ndarray, degrees: float = 0.0, seed: int = 0
) -> np.ndarray:
    """Write ``(columns, rows, slices)`` as one file a slice; its affine in RAS."""
    folder.mkdir(parents=True, exist_ok=True)
    turn = rotation(degrees)
    lps = np.eye(4)
    lps[:3, :3] = turn @ np.diag(SPACING)
    lps[:3, 3] = (-20.5, 10.25, 30.0)
    study, series, frame = (pydicom.uid.generate_uid(entropy_srcs=[f"{seed}{k}"]) for k in "abc")
    # Stored ten times as large, so that whole numbers carry a tenth.
    stored = np.round(values * 10 + 100).astype(np.int16)
    for k in range(values.shape[2]):
        s = pydicom.Dataset()
        s.file_meta = pydicom.dataset.FileMetaDataset()
        s.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        s.file_meta.MediaStorageSOPClassUID = s.SOPClassUID = pydicom.uid.MRImageStorage
        uid = pydicom.uid.generate_uid(entropy_srcs=[f"{seed}{k}"])
        s.file_meta.MediaStorageSOPInstanceUID = s.SOPInstanceUID = uid
        s.StudyInstanceUID, s.SeriesInstanceUID, s.FrameOfReferenceUID = study, series, frame
        s.PatientName, s.PatientID, s.PatientBirthDate, s.PatientSex = (
            SECRET,
            SECRET,
            "19010203",
            "F",
        )
        s.StudyID = s.AccessionNumber = s.ReferringPhysicianName = ""
        s.StudyDate, s.StudyTime, s.Modality = "20200101", "000000", "MR"
        s.PositionReferenceIndicator = s.Manufacturer = ""
        s.SeriesNumber, s.InstanceNumber = 1, k + 1
        s.ImagePositionPatient = [f"{v:.6f}" for v in (lps @ [0, 0, k, 1])[:3]]
        s.ImageOrientationPatient = [f"{v:.8f}" for v in [*turn[:, 0], *turn[:, 1]]]
        s.PixelSpacing = [SPACING[1], SPACING[0]]
        s.SliceThickness = SPACING[2]
        s.Rows, s.Columns = values.shape[1], values.shape[0]
        s.SamplesPerPixel, s.PhotometricInterpretation = 1, "MONOCHROME2"
        s.BitsAllocated = s.BitsStored = 16
        s.HighBit, s.PixelRepresentation = 15, 1
        s.RescaleSlope, s.RescaleIntercept = "0.1", "-10"
        s.PixelData = stored[:, :, k].T.tobytes()
        # File names do not sort as slices do.
        s.save_as(folder / f"IM{(k * 7) % 11:03d}.dcm", enforce_file_format=True)
    return np.diag([-1, -1, 1, 1]) @ lps


def slice_at(folder: Path, k: int) -> Path:
    return folder / f"IM{(k * 7) % 11:03d}.dcm"
