"""DICOM is decoded in a process that may die: the case fails by name, and the others go on."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from helpers.dicom_series import SECRET, slice_at, write_series
from helpers.segment_bundle import blocks, labels_of, reasons, segment
from perforated_monai.errors import UserError
from perforated_monai.inference.dicom import Asked, process, read_series

pydicom = pytest.importorskip("pydicom", reason="no pydicom: install perforated-monai[dicom]")
pytest.importorskip("itk", reason="no itk: install perforated-monai[dicom]")

VALUES = np.round(blocks((12, 11, 8)), 1)


def changed(path, **tags) -> None:
    header = pydicom.dcmread(path)
    for name, value in tags.items():
        setattr(header, name, value)
    header.save_as(path)


def test_a_palette_without_its_table_costs_one_case(tmp_path, segmenter):
    for name in ("a", "palette", "z"):
        write_series(tmp_path / "in" / name, VALUES)
    for k in range(8):
        path = slice_at(tmp_path / "in" / "palette", k)
        changed(path, PhotometricInterpretation="PALETTE COLOR")
    summary = segment(tmp_path / "in", tmp_path / "out", segmenter)
    assert list(reasons(summary)) == ["palette"] and summary.exit_code == 3
    assert "IM000.dcm must hold grey values" in reasons(summary)["palette"]
    for name in ("a", "z"):
        found = labels_of(tmp_path / "out" / f"{name}_seg.nii.gz")
        assert np.array_equal(found, np.round(VALUES))


@pytest.fixture
def reader():
    reader = process.SeriesReader()
    yield reader
    reader.close()


def test_a_process_that_is_ended_is_named_and_made_again(tmp_path, reader, monkeypatch):
    write_series(tmp_path / "s", VALUES)
    files = sorted((tmp_path / "s").iterdir())
    saying, asked = reader._ask, []

    def killed_once(request):
        asked.append(request)
        if len(asked) == 1:
            reader._started().kill()
        return saying(request)

    monkeypatch.setattr(reader, "_ask", killed_once)
    with pytest.raises(UserError, match=r"ended \(SIGKILL\): one of its slices is damaged"):
        reader.read(files, Asked())
    assert len(asked) == 1 + len(files)  # each file alone: none of them ends the process
    assert np.allclose(reader.read(files, Asked()).array, VALUES, atol=1e-4)


@pytest.mark.slow
def test_the_file_that_ends_native_code_is_found_and_a_hang_is_ended(tmp_path, reader, monkeypatch):
    """Slow: each end costs another start of ITK, which takes seconds."""
    write_series(tmp_path / "s", VALUES)
    files = sorted((tmp_path / "s").iterdir())
    changed(files[3], PhotometricInterpretation="PALETTE COLOR")
    assert reader._culprit(files) == files[3].name  # SIGABRT
    changed(files[3], PhotometricInterpretation="MONOCHROME2")
    assert np.allclose(reader.read(files, Asked()).array, VALUES, atol=1e-4)
    monkeypatch.setattr(process, "_SECONDS", -1e3)
    with pytest.raises(UserError, match="it took too long"):
        reader.read(files, Asked())


def test_native_code_is_never_loaded_by_the_process_that_asks(tmp_path):
    write_series(tmp_path / "s", VALUES)
    before = set(sys.modules)
    series = read_series(sorted((tmp_path / "s").iterdir()))
    assert np.allclose(series.array, VALUES, atol=1e-4)
    assert [f.name for f in series.files] == [slice_at(tmp_path, k).name for k in range(8)]
    loaded = {name for name in set(sys.modules) - before if name.split(".")[0] == "itk"}
    assert loaded == set()


def test_a_series_that_memory_does_not_take_is_refused_before_it_is_unpacked(tmp_path):
    write_series(tmp_path / "s", VALUES)
    with pytest.raises(UserError, match="1,056 voxels; the memory that is free takes 1,000"):
        read_series(sorted((tmp_path / "s").iterdir()), Asked(most_voxels=1000))


def bare(path, meta: bool) -> None:
    """Cut preamble and mark, and the file meta information too."""
    data = path.read_bytes()[132:]
    if not meta:
        data = data[12 + int.from_bytes(data[8:12], "little") :]
    path.unlink()
    path.with_suffix("").write_bytes(data)


def test_slices_without_preamble_or_ending_are_part_of_the_series(tmp_path, segmenter):
    for name in ("meta", "bare", "all", "MR", "none"):
        write_series(tmp_path / "in" / name, VALUES)
    bare(slice_at(tmp_path / "in" / "meta", 2), meta=True)
    bare(slice_at(tmp_path / "in" / "bare", 2), meta=False)
    for k in range(8):
        bare(slice_at(tmp_path / "in" / "all", k), meta=False)
        for name, ending in (("MR", ".MR"), ("none", "")):
            path = slice_at(tmp_path / "in" / name, k)
            path.rename(path.with_suffix(ending))
    (tmp_path / "in" / "none" / "README").write_text("no slice")
    summary = segment(tmp_path / "in", tmp_path / "out", segmenter)
    assert list(reasons(summary)) == ["meta"] and len(summary.rows) == 5
    lost = slice_at(tmp_path / "in" / "meta", 2).with_suffix("").name
    assert f"{lost} has lost its preamble" in reasons(summary)["meta"]
    for mask in (tmp_path / "out").glob("*_seg.nii.gz"):
        assert np.array_equal(labels_of(mask), np.round(VALUES))
    damaged = slice_at(tmp_path / "in" / "none", 7).with_suffix("")
    damaged.write_bytes(bytes(4000))  # an end slice, that no gap would show
    summary = segment(tmp_path / "in" / "none", tmp_path / "o", segmenter)
    (reason,) = reasons(summary).values()
    assert damaged.name in reason and "a slice may be lost" in reason


def lookup_table() -> pydicom.Dataset:
    table = pydicom.Dataset()
    table.LUTDescriptor, table.ModalityLUTType, table.LUTData = [2, 0, 16], "US", b"\0\0\1\0"
    return table


def test_slices_that_do_not_belong_together_are_refused(tmp_path, segmenter):
    kinds = {
        "patient": {"PatientID": "OTHER"},
        "name": {"PatientName": "OTHER"},
        "study": {"StudyInstanceUID": "1.2.3"},
        "frame": {"FrameOfReferenceUID": "1.2.3"},
        "mode": {"Modality": "CT"},
    }
    for name, tags in kinds.items():
        write_series(tmp_path / "in" / name, VALUES)
        changed(slice_at(tmp_path / "in" / name, 5), **tags)
    for name, tags in (
        ("ct", {"Modality": "CT"}),
        ("ten", {"NumberOfSeriesRelatedInstances": 10}),
        ("acquired", {"ImagesInAcquisition": 10}),
        ("every2", {"SpacingBetweenSlices": 1}),
        ("inverse", {"PhotometricInterpretation": "MONOCHROME1"}),
        ("nowhere", {"Modality": ""}),
        ("slope", {"RescaleSlope": "0"}),
        ("start", {"RescaleIntercept": "nan"}),
        ("table", {"ModalityLUTSequence": [lookup_table()]}),
        ("turned", {"PhotometricInterpretation": "MONOCHROME1"}),
        ("far", {"ImagePositionPatient": [1e20, 0, 0]}),
        ("fine", {"PixelSpacing": [1e-9, 1e-9]}),
        ("end", {}),
    ):
        write_series(tmp_path / "in" / name, VALUES)
        for k in range(8):
            changed(slice_at(tmp_path / "in" / name, k), **tags)
    slice_at(tmp_path / "in" / "end", 0).unlink()
    with slice_at(tmp_path / "in" / "inverse", 0).open("r+b") as handle:
        handle.truncate(3 * 2**30)
    summary = segment(tmp_path / "in", tmp_path / "out", segmenter)
    found = reasons(summary)
    assert sorted(found) == sorted(
        [*kinds, "ct", "ten", "inverse", "slope", "start", "table", "turned", "far", "fine"]
    )
    for name, words in (
        ("patient", "of one patient"),
        ("name", "of one patient"),
        ("study", "of one study"),
        ("frame", "of one frame of reference"),
        ("mode", "of one modality"),
        ("ct", "for modality MR; the series says CT"),
        ("ten", "it has 10 images; 8 are here"),
        ("slope", "RescaleSlope that is not 0"),
        ("start", "a finite RescaleIntercept"),
        ("table", "has a modality LUT"),
        ("turned", "MONOCHROME1, whose values ITK inverts"),
        ("far", "within 100 m"),
        ("fine", "of 1 µm or more"),
        ("inverse", "has 3,221,225,472 bytes"),
    ):
        assert words in found[name], found[name]
    assert slice_at(tmp_path, 5).name in found["patient"] and "OTHER" not in str(found)
    notes = {row["case"]: "; ".join(row["notes"]) for row in summary.rows if row["notes"]}
    assert "ImagesInAcquisition is 10, and 8 are here" in notes["acquired"]
    assert "2 mm apart, and SpacingBetweenSlices is 1 mm" in notes["every2"]
    assert "instance numbers begin at 2" in notes["end"]
    assert "the series gives none" in notes["nowhere"]
    assert SECRET not in (tmp_path / "out" / "cases.csv").read_text()
