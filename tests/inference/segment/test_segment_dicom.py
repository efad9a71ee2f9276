"""DICOM series in, NIfTI masks and DICOM SEG out; broken series are fault 39."""

from __future__ import annotations

import sys
import warnings

import nibabel as nib
import numpy as np
import pytest

from helpers.dicom_series import SECRET, slice_at, write_series
from helpers.segment_bundle import blocks, labels_of, make_rounding_bundle, reasons, segment
from perforated_monai.errors import UserError
from perforated_monai.inference.dicom.scattered import scattered
from perforated_monai.inference.segment import Segmenter
from perforated_monai.inference.segment.page import write_page

pydicom = pytest.importorskip("pydicom", reason="no pydicom: install perforated-monai[dicom]")
itk = pytest.importorskip("itk", reason="no itk: install perforated-monai[dicom]")
highdicom = pytest.importorskip("highdicom", reason="no highdicom: install perforated-monai[dicom]")


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory) -> Segmenter:
    return Segmenter(make_rounding_bundle(tmp_path_factory.mktemp("bundle") / "b"), device="cpu")


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


@pytest.mark.parametrize("anonymous", [False, True])
def test_a_series_over_two_folders_is_refused_and_a_copy_is_none(anonymous, tmp_path, segmenter):
    """Each half alone would give half a mask; a copy gives the same mask twice."""
    scans = tmp_path / "scans"
    write_series(scans / "a", blocks((11, 10, 8)))
    (scans / "b").mkdir()
    for file in sorted((scans / "a").iterdir())[4:]:
        file.rename(scans / "b" / file.name)
    for name in ("c", "d"):
        write_series(scans / name, blocks((11, 10, 8)), seed=7)
    summary = segment(scans, tmp_path / "out", segmenter, anonymous=anonymous)
    assert len(summary.rows) == 4 and len(summary.failed) == 2 and summary.exit_code == 3
    others = {row["reason"].split(" also lie in ")[1].split(".")[0] for row in summary.failed}
    assert others == ({"another folder"} if anonymous else {"a", "b"})


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


def test_the_page_of_a_series_shows_it_and_holds_no_tag(tmp_path, segmenter):
    write_series(tmp_path / "in" / "a", blocks())
    assert segment(tmp_path / "in", tmp_path / "out", segmenter).exit_code == 0
    write_page(tmp_path / "out", tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text() + (tmp_path / "out" / "run.json").read_text()
    assert 'id="planes-0"' in text
    header = pydicom.dcmread(slice_at(tmp_path / "in" / "a", 0))
    for secret in (SECRET, "19010203", "20200101", header.SeriesInstanceUID, str(tmp_path)):
        assert secret not in text


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


def _changed(path, **tags) -> None:
    """Set tags of a slice and save it again."""
    header = pydicom.dcmread(path)
    for name, value in tags.items():
        setattr(header, name, value)
    header.save_as(path)


def test_series_that_are_no_stack_of_slices_are_refused_with_a_cure(tmp_path, segmenter):
    values = np.round(blocks((12, 11, 8)), 1)
    kinds = ("multiframe", "enhanced", "tilted", "colour", "tags", "turned", "spacing", "good")
    folders = {kind: tmp_path / "in" / kind for kind in kinds}
    for folder in folders.values():
        write_series(folder, values)
    for k in range(1, 8):
        slice_at(folders["multiframe"], k).unlink()
        slice_at(folders["enhanced"], k).unlink()
        tilted = pydicom.dcmread(slice_at(folders["tilted"], k)).ImagePositionPatient
        _changed(
            slice_at(folders["tilted"], k),
            ImagePositionPatient=[tilted[0], tilted[1] + 0.5 * k, tilted[2]],
        )
    frames = np.zeros((8, 11, 12), np.int16).tobytes()
    _changed(slice_at(folders["multiframe"], 0), NumberOfFrames=8, PixelData=frames)
    enhanced = pydicom.dcmread(slice_at(folders["enhanced"], 0))
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(enhanced, name)
    enhanced.SOPClassUID = pydicom.uid.EnhancedMRImageStorage
    enhanced.NumberOfFrames, enhanced.PixelData = 8, frames
    enhanced.PerFrameFunctionalGroupsSequence = [pydicom.Dataset() for _ in range(8)]
    enhanced.save_as(slice_at(folders["enhanced"], 0))
    _changed(slice_at(folders["colour"], 3), SamplesPerPixel=3, PhotometricInterpretation="RGB")
    wrong = pydicom.dcmread(slice_at(folders["tags"], 3))
    del wrong.PixelSpacing
    wrong.add_new(0x00280030, "LO", [SECRET, SECRET])
    wrong.save_as(slice_at(folders["tags"], 3))
    _changed(slice_at(folders["turned"], 3), ImageOrientationPatient=[1, 0, 0, 1, 0, 0])
    for k in range(8):
        _changed(slice_at(folders["spacing"], k), PixelSpacing=[0, 1.1])
    summary = segment(tmp_path / "in", tmp_path / "out", segmenter)
    found = reasons(summary)
    assert sorted(found) == sorted(set(kinds) - {"good"}) and summary.exit_code == 3
    for kind, k, words in (
        ("multiframe", 0, "multi-frame"),
        ("enhanced", 0, "multi-frame"),
        ("colour", 3, "colours"),
        ("tags", 3, "damaged header (ValueError)"),
        ("turned", 3, "right angles"),
    ):
        assert words in found[kind] and slice_at(folders[kind], k).name in found[kind], found[kind]
    assert "dcm2niix" in found["enhanced"] and "dcm2niix" in found["tilted"]
    assert "shift by 3.50 mm" in found["tilted"] and "tilted gantry" in found["tilted"]
    assert "spacing above 0" in found["spacing"]
    assert SECRET not in (tmp_path / "out" / "cases.csv").read_text()


def test_series_read_in_several_threads_leave_the_warnings_as_they_were(tmp_path, segmenter):
    for k in range(6):
        write_series(tmp_path / "in" / str(k), np.round(blocks((12, 11, 8), seed=k), 1), seed=k)
    before = list(warnings.filters)
    assert segment(tmp_path / "in", tmp_path / "out", segmenter, workers=4).exit_code == 0
    assert warnings.filters == before
    for k in range(6):
        expected = np.round(np.round(blocks((12, 11, 8), seed=k), 1))
        assert np.array_equal(labels_of(tmp_path / "out" / f"{k}_seg.nii.gz"), expected)


def test_without_pydicom_no_series_is_looked_for_in_parts(tmp_path, monkeypatch):
    """To look for series in parts needs pydicom, and must not end the run without it."""
    for name in ("a", "b"):
        write_series(tmp_path / "in" / name, blocks((11, 10, 8)))
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert scattered({n: sorted((tmp_path / "in" / n).iterdir()) for n in ("a", "b")}) == {}
