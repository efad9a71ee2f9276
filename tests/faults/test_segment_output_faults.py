"""Faults 34 to 42, 58, 59: a scan, its grid and its mask; one test a number."""

from __future__ import annotations

import contextlib
import copy
import gzip
import json
import os
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from helpers.harness import in_child
from helpers.segment_bundle import (
    blocks,
    labels_of,
    make_rounding_bundle,
    reasons,
    save,
    segment,
)
from helpers.segment_faults import GOOD, good_masks_are_right, refuses
from perforated_monai.errors import UserError
from perforated_monai.inference.segment import Segmenter
from perforated_monai.inference.segment.folder import Options, segment_folder

NOBODY = 65534


@pytest.mark.fault(35)
def test_affine_singular_not_finite_or_in_conflict(scans, segmenter):
    values = blocks(seed=7)
    save(scans / "singular.nii.gz", values, srow_x=[0, 0, 0, 0])
    save(scans / "nan.nii.gz", values, srow_y=[0, np.nan, 0, 0])
    zero = save(scans / "zero.nii", values, sform_code=0, qform_code=1)
    data = bytearray(zero.read_bytes())
    data[80:84] = bytes(4)  # pixdim[1], which nibabel would repair while saving
    zero.write_bytes(data)
    expected = {
        "singular.nii.gz": "invertible affine",
        "nan.nii.gz": "NaN",
        "zero.nii": "above 0 mm",
    }
    refuses(scans, segmenter, expected)
    flagged = scans.parent / "flagged"
    save(flagged / "conflict.nii.gz", values, qform_code=1, qoffset_x=40)
    save(flagged / "none.nii.gz", values, qform_code=0, sform_code=0)
    summary = segment(flagged, scans.parent / "out2", segmenter)
    assert summary.exit_code == 0
    assert "sform and a qform that agree; got 40 voxels" in summary.rows[0]["notes"][0]
    assert "by sform or qform; got neither" in summary.rows[1]["notes"][0]
    for name in ("conflict", "none"):  # nothing about the geometry is changed, nor made up
        scan = nib.load(flagged / f"{name}.nii.gz").header
        mask = nib.load(scans.parent / "out2" / f"{name}_seg.nii.gz").header
        for key in ("sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "qoffset_x"):
            assert np.array_equal(scan[key], mask[key]), key
        assert np.array_equal(scan.get_best_affine(), mask.get_best_affine())


@pytest.mark.fault(36)
def test_other_dimensions_and_types_are_refused_by_the_header(scans, segmenter):
    values = np.round(blocks(seed=7))
    rgb = np.zeros(values.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    save(scans / "two.nii.gz", values[..., 0])
    save(scans / "four.nii.gz", np.stack([values, values], -1))
    save(scans / "five.nii.gz", values[..., None, None].repeat(2, -1))
    save(scans / "rgb.nii.gz", rgb)
    save(scans / "complex.nii.gz", values.astype(np.complex64))
    expected = {
        "two.nii.gz": "2-D",
        "four.nii.gz": "needs 1 channel",
        "five.nii.gz": "5-D",
        "rgb.nii.gz": "RGB",
        "complex.nii.gz": "complex",
    }
    refuses(scans, segmenter, expected)
    slices = scans.parent / "slices"
    save(slices / "one.nii.gz", values[..., 4:5])
    save(slices / "volume.nii.gz", values[..., None])
    assert segment(slices, scans.parent / "out2", segmenter).exit_code == 0
    assert np.array_equal(labels_of(scans.parent / "out2" / "one_seg.nii.gz"), values[..., 4:5])
    assert np.array_equal(labels_of(scans.parent / "out2" / "volume_seg.nii.gz"), values)


@pytest.mark.fault(37)
def test_bombs_are_refused_before_they_are_read(scans, segmenter):
    header = nib.Nifti1Header()
    header.set_data_shape((30000, 30000, 30000))
    header.set_data_dtype(np.uint8)
    header["magic"], header["vox_offset"] = b"n+1", 352
    (scans / "header.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(4)))
    zeros = gzip.compress(bytes(1_000_000)) * 216  # gzip members follow each other
    for name, side in (("zeros", 600), ("longer", 10)):
        header.set_data_shape((side, side, side))
        head = gzip.compress(header.binaryblock + bytes(4))
        (scans / f"{name}.nii.gz").write_bytes(head + zeros)
    start = time.perf_counter()
    expected = {"header.nii.gz": "voxels", "zeros.nii.gz": "gzip", "longer.nii.gz": "goes on"}
    refuses(scans, segmenter, expected)
    assert time.perf_counter() - start < 20


@pytest.mark.fault(37)
def test_a_scan_that_does_not_fit_memory_is_refused_or_done_with_fewer_windows(tmp_path):
    bundle = make_rounding_bundle(tmp_path / "b")
    values = blocks((40, 40, 40))
    small = Segmenter(bundle, device="cpu", memory_limit=100_000)
    with pytest.raises(UserError, match=r"needs .* of memory"):
        small(values, np.eye(4))
    tight = Segmenter(bundle, device="cpu", memory_limit=500_000)
    found = tight(values, np.eye(4))
    assert np.array_equal(found.labels, np.round(values))
    assert any("windows at a time" in note for note in found.notes)


@pytest.mark.fault(38)
def test_out_of_device_memory_moves_to_the_cpu_and_says_so(scans, segmenter, tmp_path):
    """To torch cpu:0 is another device than cpu: it stands for a GPU that is full."""
    fragile = Segmenter(segmenter.bundle, device="cpu:0")

    def exhausted(windows: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError(f"{tuple(windows.shape)} does not fit")

    fragile.predict = exhausted
    summary = segment(scans, tmp_path / "out", fragile)
    assert summary.exit_code == 0
    good_masks_are_right(tmp_path / "out")
    for row in summary.rows:
        assert any("moved to the CPU" in note for note in row["notes"])


@pytest.mark.fault(39)
def test_series_that_are_not_whole_are_refused_by_slice(tmp_path, segmenter):
    pydicom = pytest.importorskip("pydicom", reason="install perforated-monai[dicom]")
    pytest.importorskip("itk", reason="install perforated-monai[dicom]")
    from helpers.dicom_series import SECRET, slice_at, write_series

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


@pytest.mark.fault(40)
def test_a_plain_file_beside_its_gzip_twin(scans, segmenter):
    save(scans / "twin.nii", blocks(seed=7))
    save(scans / "twin.nii.gz", blocks(seed=8))
    expected = {"twin.nii": "twin.nii.gz", "twin.nii.gz": "twin.nii"}
    refuses(scans, segmenter, expected)
    segment(scans / "twin.nii", scans.parent / "one", segmenter)  # named: read
    assert np.array_equal(
        labels_of(scans.parent / "one" / "twin_seg.nii.gz"), np.round(blocks(seed=7))
    )


@contextlib.contextmanager
def open_to_nobody() -> Iterator[Path]:
    """A folder that a user without rights can enter; pytest's own cannot be."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


def as_nobody(work: Callable[[], None]) -> int:
    """Run in a child without root's rights, for whom no permission is missing."""

    def run() -> None:
        if os.getuid() == 0:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        work()

    return in_child(run)


@pytest.mark.fault(41)
def test_unreadable_files_and_folders_are_named(segmenter):
    with open_to_nobody() as root:
        for seed, name in enumerate(GOOD):
            save(root / "in" / name, blocks(seed=seed))
        save(root / "in" / "secret.nii", blocks()).chmod(0)
        save(root / "in" / "closed" / "a.nii", blocks())
        (root / "in" / "closed").chmod(0)

        def run() -> None:
            summary = segment(root / "in", root / "out", segmenter)
            assert summary.exit_code == 3
            found = reasons(summary)
            assert sorted(found) == ["closed", "secret.nii"]
            assert all("Permission denied" in reason for reason in found.values())
            good_masks_are_right(root / "out")

        assert as_nobody(run) == 0
        (root / "in" / "closed").chmod(0o755)


@pytest.mark.fault(42)
def test_read_only_output_is_refused_before_the_first_case(segmenter):
    with open_to_nobody() as root:
        save(root / "in" / "a.nii", blocks())
        (root / "out").mkdir()
        (root / "out").chmod(0o555)

        def run() -> None:
            read: list[object] = []
            watched = copy.copy(segmenter)
            watched.check_range = lambda *a: read.append(a) or []
            with pytest.raises(UserError, match=r"cannot be written.*Permission denied"):
                segment(root / "in", root / "out", watched)
            assert read == []

        assert as_nobody(run) == 0
        (root / "out").chmod(0o755)


@pytest.mark.fault(58)
def test_shell_characters_in_names_are_text(tmp_path, segmenter, capfd):
    names = [
        "a;rm -rf x",
        "$(touch pwned)",
        "new\nline",
        "`id`",
        "quote'\"",
        "[red]bold[/red]",
        "\x1b[31mansi",
        "-rf",
        "ünï cödé",
        "=1+1",
        os.fsdecode(b"latin\xe9"),
    ]
    for seed, name in enumerate(names):
        save(tmp_path / "in" / f"{name}.nii", blocks(seed=seed))
    (tmp_path / "in" / "bad;\x1b[31m.nii").write_bytes(b"x")
    summary = segment_folder(tmp_path / "in", tmp_path / "out", segmenter, Options(progress=True))
    assert summary.exit_code == 3 and len(summary.failed) == 1
    for seed, name in enumerate(names):
        found = labels_of(tmp_path / "out" / f"{name}_seg.nii.gz")
        assert np.array_equal(found, np.round(blocks(seed=seed)))
    lines = (tmp_path / "out" / "cases.jsonl").read_text().splitlines()
    assert len({json.loads(line)["case"] for line in lines}) == len(names) + 1
    assert len((tmp_path / "out" / "cases.csv").read_text().splitlines()) == len(names) + 2
    shown = capfd.readouterr()
    assert "\x1b[31m" not in shown.out + shown.err and "[red]" in shown.out
    assert not list(tmp_path.rglob("pwned")) and not Path("pwned").exists()


@pytest.mark.fault(59)
def test_no_patient_data_in_what_is_written(tmp_path, segmenter, capfd):
    secret = "DOE^JANE"
    image = nib.Nifti1Image(blocks(), np.eye(4))
    image.header["descrip"] = image.header["aux_file"] = secret
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", secret.encode()))
    path = tmp_path / "in" / secret / f"{secret}.nii"
    path.parent.mkdir(parents=True)
    nib.save(image, path)
    bad = bytearray(path.read_bytes())
    bad[70:72] = struct.pack("<h", 9999)
    (tmp_path / "in" / f"{secret}2.nii").write_bytes(bytes(bad))
    options = Options(anonymous=True, preview=True)
    summary = segment_folder(tmp_path / "in", tmp_path / "out", segmenter, options)
    assert summary.exit_code == 3
    written = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert len([p for p in written if p.suffix in (".gz", ".png", ".csv", ".jsonl")]) == 4
    for file in written:
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        assert secret.encode() not in data
        assert str(tmp_path).encode() not in data
        assert secret not in str(file.relative_to(tmp_path))
    shown = capfd.readouterr()
    assert secret not in shown.out + shown.err
