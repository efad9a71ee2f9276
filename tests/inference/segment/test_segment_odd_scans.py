"""Scans that would give a wrong mask: refused, or noted in the row and on the preview."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from helpers.segment_bundle import blocks, labels_of, make_rounding_bundle, reasons, save, segment
from perforated_monai.data.check import check_volume
from perforated_monai.inference.segment import opened, preview


def edited(path: Path, offset: int, layout: str, *values: float) -> None:
    data = bytearray(path.read_bytes())
    data[offset : offset + struct.calcsize(layout)] = struct.pack(layout, *values)
    path.write_bytes(bytes(data))


def with_voxel(value: float) -> np.ndarray:
    values = blocks(seed=5)
    values[7, 6, 5] = value
    return values


def test_values_and_geometry_that_no_scan_has_are_refused(scans, segmenter, tmp_path):
    rng = np.random.default_rng(0)
    save(scans / "zero.nii", np.zeros((9, 8, 7), "f4"))
    save(scans / "constant.nii", np.full((9, 8, 7), 3, "i2"))
    save(scans / "scaled.nii", np.full((9, 8, 7), 3, "u1"))
    edited(scans / "scaled.nii", 112, "<2f", 0.1, 2)
    save(scans / "huge.nii", with_voxel(3e38))
    save(scans / "negative.nii", with_voxel(-1e30))
    save(scans / "far.nii", blocks(), srow_x=[1, 0, 0, 1e20])
    save(scans / "metres.nii", blocks()[..., :9])
    edited(scans / "metres.nii", 123, "<B", 1)
    save(scans / "micro.nii", blocks()[..., :9])
    edited(scans / "micro.nii", 123, "<B", 3)
    for name, value in (("infinite.nii", np.inf), ("nan.nii", np.nan)):
        save(scans / name, blocks())
        edited(scans / name, 108, "<f", value)
    for name, data in (("trailing.nii", rng.bytes(16)), ("more.nii.gz", rng.bytes(480))):
        whole = save(scans / name, blocks()).read_bytes()
        if name.endswith(".gz"):
            whole = gzip.compress(gzip.decompress(whole) + data)
        else:
            whole += data
        (scans / name).write_bytes(whole)
    save(scans / "narrow.nii", blocks())  # one column fewer than it holds: a sheared picture
    edited(scans / "narrow.nii", 42, "<h", 13)
    save(scans / "extended.nii", blocks())  # an extension where the voxels begin
    data = bytearray((scans / "extended.nii").read_bytes())
    data[348:360] = struct.pack("<4B2i", 1, 0, 0, 0, 32, 6)
    (scans / "extended.nii").write_bytes(bytes(data))
    expected = {
        "zero.nii": "more than one value",
        "constant.nii": "got 3 everywhere",
        "scaled.nii": "got 2.3 everywhere",
        "huge.nii": "within ±1e+10; got 3e+38",
        "negative.nii": "got 1e+30",
        "far.nii": "within 100 m",
        "metres.nii": "metres in xyzt_units. The unit is wrong",
        "micro.nii": "micrometres",
        "infinite.nii": "vox_offset is inf",
        "nan.nii": "vox_offset is nan",
        "trailing.nii": "16 more follow",
        "more.nii.gz": "480 more follow",
        "narrow.nii": "more follow",
        "extended.nii": "begin behind the extensions",
    }
    summary = segment(scans, tmp_path / "out", segmenter)
    found = reasons(summary)
    assert sorted(found) == sorted(expected) and summary.exit_code == 3
    for name, words in expected.items():
        assert words in found[name], (name, found[name])
    assert len(list((tmp_path / "out").glob("*_seg.nii.gz"))) == 3


def test_what_is_odd_but_usable_is_noted_in_the_row_and_on_the_preview(
    segmenter, tmp_path, monkeypatch
):
    scans = tmp_path / "in"
    sheared = np.array([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    save(scans / "shear.nii", blocks(), sheared)
    save(scans / "spike.nii", with_voxel(1e6))
    padded = save(scans / "padded.nii", blocks())
    padded.write_bytes(padded.read_bytes() + bytes(512))
    moved = save(scans / "moved.nii", blocks())
    data = moved.read_bytes()
    moved.write_bytes(data[:352] + bytes(64) + data[352:])
    edited(moved, 108, "<f", 416)
    drawn: dict[str, list[str]] = {}
    write_preview = preview.write_preview

    def draw(*a):
        drawn.update({a[5]: list(a[6])})
        return write_preview(*a)

    monkeypatch.setattr(preview, "write_preview", draw)
    summary = segment(scans, tmp_path / "out", segmenter, preview=True)
    assert summary.exit_code == 0
    notes = {row["case"]: "; ".join(row["notes"]) for row in summary.rows}
    assert "axes at right angles; got 16.7 degrees off" in notes["shear.nii"]
    assert "a few voxels lie far outside: values go from" in notes["spike.nii"]
    assert "512 bytes, all of them 0" in notes["padded.nii"]
    assert "begin at byte 416, though no extension" in notes["moved.nii"]
    assert {name: "; ".join(lines) for name, lines in drawn.items()} == notes
    for name, values in (("shear", blocks()), ("padded", blocks()), ("moved", blocks())):
        found = labels_of(tmp_path / "out" / f"{name}_seg.nii.gz")
        assert np.array_equal(found, np.round(values))


def test_one_constant_channel_of_two_is_a_note_and_two_are_refused(tmp_path):
    pair = make_rounding_bundle(tmp_path / "b", channels=2)
    values, flat = blocks(), np.zeros((14, 12, 10), "f4")
    save(tmp_path / "in" / "one.nii", np.stack([values, flat], -1))
    save(tmp_path / "in" / "both.nii", np.stack([flat, flat], -1))
    summary = segment(tmp_path / "in", tmp_path / "out", pair)
    assert list(reasons(summary)) == ["both.nii"] and summary.exit_code == 3
    assert "one value in channel 1" in summary.rows[1]["notes"][0]


@pytest.mark.parametrize("kind", ["metres", "far"])
def test_check_and_segment_share_their_rules(kind, tmp_path):
    path = save(tmp_path / "a.nii", blocks())
    edited(path, *((123, "<B", 1) if kind == "metres" else (292, "<f", 1e20)))
    assert next(f.severity for f in check_volume(path)) == "error"


def test_a_scan_that_is_still_being_copied_is_refused(segmenter, tmp_path, monkeypatch):
    path = save(tmp_path / "in" / "a.nii", blocks())
    reading = opened.read_scan

    def replaced(*arguments):
        scan = reading(*arguments)
        save(path, blocks((9, 8, 7)))
        return scan

    monkeypatch.setattr(opened, "read_scan", replaced)
    summary = segment(tmp_path / "in", tmp_path / "out", segmenter)
    assert summary.exit_code == 1 and "changed while they were read" in summary.rows[0]["reason"]
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_a_label_map_in_the_place_of_a_scan_is_noted(segmenter, tmp_path):
    save(tmp_path / "in" / "labels.nii", np.round(blocks()).astype("u1"))
    summary = segment(tmp_path / "in", tmp_path / "out", segmenter)
    assert summary.rows[0]["notes"] == ["it holds 3 values: it looks like a mask, not like a scan"]
