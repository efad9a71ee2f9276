"""DICOM series in, NIfTI masks and DICOM SEG out; fault 39: series that are not whole."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from test_segment_geometry import rotation

from perforated_monai.errors import UserError
from perforated_monai.segment import Segmenter
from segment_bundle import blocks, labels_of, make_rounding_bundle, reasons, segment

pydicom = pytest.importorskip("pydicom", reason="no pydicom: install perforated-monai[dicom]")
itk = pytest.importorskip("itk", reason="no itk: install perforated-monai[dicom]")
highdicom = pytest.importorskip("highdicom", reason="no highdicom: install perforated-monai[dicom]")

SECRET = "DOE^JANE"
SPACING = (0.8, 1.1, 2.0)  # columns, rows, slices


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory) -> Segmenter:
    return Segmenter(make_rounding_bundle(tmp_path_factory.mktemp("bundle") / "b"), device="cpu")


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


@pytest.mark.parametrize("degrees", [0, 20])
def test_series_gives_the_known_mask_on_its_grid(degrees, tmp_path, segmenter):
    values = np.round(blocks((12, 11, 8)), 1)
    affine = write_series(tmp_path / "in" / "p1" / "t1", values, degrees)
    (tmp_path / "in" / "p1" / "t1" / "notes.txt").write_text("no slice")
    summary = segment(tmp_path / "in", tmp_path / "out", segmenter)
    assert summary.exit_code == 0 and summary.rows[0]["case"] == "p1/t1"
    mask = nib.load(tmp_path / "out" / "p1" / "t1_seg.nii.gz")
    assert np.array_equal(np.asarray(mask.dataobj), np.round(values))
    assert np.allclose(mask.affine, affine, atol=1e-4)
    assert mask.header["sform_code"] == mask.header["qform_code"] == 1


def test_39_series_that_are_not_whole_are_refused_by_slice(tmp_path, segmenter):
    values = np.round(blocks((12, 11, 8)), 1)
    kinds = ("gap", "cut", "duplicate", "two", "zeros", "size", "single", "good")
    folders = {kind: tmp_path / "in" / kind for kind in kinds}
    for folder in folders.values():
        write_series(folder, values)
    slice_at(folders["gap"], 3).unlink()
    cut = slice_at(folders["cut"], 2)
    cut.write_bytes(cut.read_bytes()[:-60])
    twice = pydicom.dcmread(slice_at(folders["duplicate"], 4))
    twice.SOPInstanceUID = twice.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    twice.save_as(folders["duplicate"] / "copy.dcm")
    write_series(tmp_path / "other", values, seed=5)
    for k in range(8):
        slice_at(tmp_path / "other", k).rename(folders["two"] / f"second{k}.dcm")
    (folders["zeros"] / "IM900.dcm").write_bytes(bytes(4000))
    odd = pydicom.dcmread(slice_at(folders["size"], 4))
    odd.Rows, odd.PixelData = 5, odd.PixelData[: 5 * 12 * 2]
    odd.save_as(slice_at(folders["size"], 4))
    for k in range(1, 8):
        slice_at(folders["single"], k).unlink()
    summary = segment(tmp_path / "in", tmp_path / "out", segmenter)
    found = reasons(summary)
    assert sorted(found) == sorted(set(kinds) - {"good"}) and summary.exit_code == 3
    gap = sorted([slice_at(folders["gap"], 2).name, slice_at(folders["gap"], 4).name])
    assert "a slice is missing" in found["gap"] and all(name in found["gap"] for name in gap)
    assert cut.name in found["cut"] and "is cut" in found["cut"]
    assert "copy.dcm" in found["duplicate"] and "at one place" in found["duplicate"]
    assert (
        "holds 2" in found["two"] and "--series" in found["two"] and "second0.dcm" in found["two"]
    )
    assert "IM900.dcm" in found["zeros"]
    assert slice_at(folders["size"], 4).name in found["size"] and "another size" in found["size"]
    assert "two or more slices" in found["single"]
    assert [p.name for p in (tmp_path / "out").glob("*.nii.gz")] == ["good_seg.nii.gz"]
    assert np.array_equal(labels_of(tmp_path / "out" / "good_seg.nii.gz"), np.round(values))
    for file in (tmp_path / "out").iterdir():
        assert SECRET.encode() not in file.read_bytes()


def test_one_series_of_several_can_be_chosen(tmp_path, segmenter):
    first, second = (np.round(blocks((12, 11, 8), seed=s), 1) + s for s in (0, 1))
    write_series(tmp_path / "in" / "both", first)
    write_series(tmp_path / "other", second, seed=5)
    for k in range(8):
        slice_at(tmp_path / "other", k).rename(tmp_path / "in" / "both" / f"b{k}.dcm")
    uid = str(pydicom.dcmread(slice_at(tmp_path / "in" / "both", 0)).SeriesInstanceUID)
    for series, values in ((uid, first), ("b3.dcm", second)):
        output = tmp_path / series
        assert segment(tmp_path / "in", output, segmenter, series=series).exit_code == 0
        found = labels_of(output / "both_seg.nii.gz")
        assert np.array_equal(found, np.round(values).clip(0, 2))
    summary = segment(tmp_path / "in", tmp_path / "none", segmenter, series="1.2.3")
    assert summary.exit_code == 1 and "--series" in reasons(summary)["both"]


def test_seg_opens_against_its_source(tmp_path, segmenter):
    values = np.round(blocks((12, 11, 8)), 1)
    write_series(tmp_path / "in" / "t1", values, degrees=20)
    assert segment(tmp_path / "in", tmp_path / "out", segmenter, dicom_seg=True).exit_code == 0
    seg = highdicom.seg.segread(tmp_path / "out" / "t1_seg.dcm")
    source = [pydicom.dcmread(slice_at(tmp_path / "in" / "t1", k)) for k in range(8)]
    uids = [s.SOPInstanceUID for s in source]
    frames = seg.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    labels = np.round(values)
    for k in range(2):
        assert np.array_equal(frames[..., k], (labels == k + 1).transpose(2, 1, 0))
    assert seg.FrameOfReferenceUID == source[0].FrameOfReferenceUID
    assert seg.PatientID == SECRET  # DICOM requires it there, and only there
    assert [d.SegmentLabel for d in seg.SegmentSequence] == list(segmenter.bundle.labels.values())
    for file in (tmp_path / "out").iterdir():
        assert file.suffix == ".dcm" or SECRET.encode() not in file.read_bytes()


def test_seg_is_refused_where_cases_are_anonymous(tmp_path, segmenter):
    write_series(tmp_path / "in" / "t1", blocks((12, 11, 8)))
    with pytest.raises(UserError, match="anonymous"):
        segment(tmp_path / "in", tmp_path / "out", segmenter, dicom_seg=True, anonymous=True)


def test_anonymous_series_are_named_by_hash_and_slices_by_number(tmp_path, segmenter):
    write_series(tmp_path / "in" / SECRET, blocks((12, 11, 8)))
    cut = slice_at(tmp_path / "in" / SECRET, 2)
    cut.write_bytes(cut.read_bytes()[:-60])
    summary = segment(tmp_path / "in", tmp_path / "out", segmenter, anonymous=True)
    (reason,) = reasons(summary).values()
    assert "of 8" in reason and cut.name not in reason
    assert SECRET not in (tmp_path / "out" / "cases.csv").read_text()
