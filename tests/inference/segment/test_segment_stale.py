"""No mask of a mask, and no mask that is no longer true: earlier runs and what they left."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from helpers.segment_bundle import blocks, labels_of, make_bundle, reasons, save, segment
from perforated_monai.errors import UserError
from perforated_monai.inference.segment.cases import find_cases


def names(output: Path) -> list[str]:
    hidden = {"run.json", "cases.csv", "cases.jsonl", ".segment.lock"}
    return sorted(p.name for p in output.rglob("*") if p.is_file() and p.name not in hidden)


def test_masks_of_an_earlier_run_are_never_input(scans, segmenter, tmp_path):
    assert segment(scans, scans / "out1", segmenter).exit_code == 0
    summary = segment(scans, scans / "deep" / "out2", segmenter)
    assert [row["case"] for row in summary.rows] == ["0.nii.gz", "1.nii.gz", "2.nii.gz"]
    assert find_cases(scans, tmp_path / "o")[1] == [
        "out1: masks of an earlier run",
        "deep/out2: masks of an earlier run",
    ]
    with pytest.raises(UserError, match="output folder of an earlier run"):
        segment(scans / "out1", tmp_path / "o", segmenter)
    summary = segment(scans / "out1" / "0_seg.nii.gz", tmp_path / "o", segmenter)
    assert summary.exit_code == 1 and "a mask of an earlier run" in summary.rows[0]["reason"]
    save(scans / "out1" / "p1" / "x.nii", blocks())  # a scan below a folder of masks is a scan
    assert segment(scans / "out1" / "p1", tmp_path / "o2", segmenter).exit_code == 0


@pytest.mark.parametrize("resume", [False, True])
def test_a_case_that_fails_or_is_gone_loses_its_old_mask(resume, scans, segmenter, tmp_path):
    output = tmp_path / "out"
    assert segment(scans, output, segmenter, preview=True).exit_code == 0
    old = (output / "0_seg.nii.gz").read_bytes()
    (scans / "0.nii.gz").write_bytes(b"no")
    (scans / "1.nii.gz").unlink()
    summary = segment(scans, output, segmenter, resume=resume, preview=True)
    assert summary.exit_code == 3 and len(summary.rows) == 2
    assert names(output) == [
        *("0_preview.png.outdated", "0_seg.nii.gz.outdated", "1_preview.png.outdated"),
        *("1_seg.nii.gz.outdated", "2_preview.png", "2_seg.nii.gz"),
    ]
    assert (output / "0_seg.nii.gz.outdated").read_bytes() == old
    rows = [json.loads(line) for line in (output / "cases.jsonl").read_text().splitlines()]
    assert [row["case"] for row in rows] == ["0.nii.gz", "2.nii.gz"]
    save(scans / "0.nii.gz", blocks(seed=7))
    assert segment(scans, output, segmenter, resume=resume).exit_code == 0
    assert np.array_equal(labels_of(output / "0_seg.nii.gz"), np.round(blocks(seed=7)))


def test_an_engine_that_fails_everything_leaves_no_mask_of_before(scans, segmenter, tmp_path):
    assert segment(scans, tmp_path / "out", segmenter).exit_code == 0
    two = make_bundle(tmp_path / "two", in_channels=1)
    config = json.loads((two / "configs" / "metadata.json").read_text())
    config["network_data_format"]["inputs"]["image"]["num_channels"] = 2
    (two / "configs" / "metadata.json").write_text(json.dumps(config))
    assert segment(scans, tmp_path / "out", two).exit_code == 1
    assert names(tmp_path / "out") == [f"{k}_seg.nii.gz.outdated" for k in range(3)]


def test_one_scan_after_another_into_one_folder_keeps_all(scans, segmenter, tmp_path):
    for k in range(3):
        summary = segment(scans / f"{k}.nii.gz", tmp_path / "out", segmenter)
        assert summary.exit_code == 0 and len(summary.rows) == 1
    assert names(tmp_path / "out") == [f"{k}_seg.nii.gz" for k in range(3)]
    assert len((tmp_path / "out" / "cases.csv").read_text().splitlines()) == 4


def test_what_is_not_ours_in_the_output_is_kept(scans, segmenter, tmp_path):
    output = tmp_path / "out"
    own = save(output / "0_seg.nii.gz", np.ones((14, 12, 10), "u1")).read_bytes()
    for name in (".a.1.tmp", ".half.tmp", "x.tmp"):
        (output / name).write_text("mine")
    ours = output / "p" / ".perforated-monai-123-0a1b2c3d.tmp"
    other = output / "q" / ours.name
    for left in (ours, other):
        left.parent.mkdir()
        left.write_text("half a mask")
    (output / "q" / ".segment.lock").touch()  # another run is at work there
    assert segment(scans, output, segmenter).exit_code == 0
    assert (output / "0_seg.nii.gz.outdated").read_bytes() == own
    assert all((output / name).read_text() == "mine" for name in (".a.1.tmp", ".half.tmp", "x.tmp"))
    assert other.exists() and not ours.exists()
    assert np.array_equal(labels_of(output / "0_seg.nii.gz"), np.round(blocks(seed=0)))


@pytest.mark.parametrize("name", ["cases.csv", "cases.jsonl"])
def test_a_table_of_somebody_else_is_refused(name, scans, segmenter, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("case,age\n1,50\n")
    with pytest.raises(UserError, match="not a table of segment"):
        segment(scans, tmp_path / "out", segmenter)
    assert (tmp_path / "out" / name).read_text() == "case,age\n1,50\n"


def test_a_table_that_was_edited_moves_nothing_outside(scans, segmenter, tmp_path):
    output = tmp_path / "out"
    segment(scans, output, segmenter)
    user = save(tmp_path / "mine_seg.nii.gz", blocks()).read_bytes()
    rows = [json.loads(line) for line in (output / "cases.jsonl").read_text().splitlines()]
    paths = ["../mine_seg.nii.gz", str(tmp_path / "mine_seg.nii.gz"), "link/mine_seg.nii.gz"]
    (output / "link").symlink_to(tmp_path)
    odd = [rows[0] | {"case": f"gone{k}", "mask": path} for k, path in enumerate(paths)]
    odd += [rows[0] | {"case": "odd", "notes": 5}, rows[0] | {"case": 5}, [1], None]
    odd += [rows[0] | {"case": "s", "seconds_network": "x"}, rows[0] | {"reason": None}]
    text = "".join(json.dumps(row) + "\n" for row in [*rows, *odd]) + "[" * 99999
    (output / "cases.jsonl").write_text(text)
    assert segment(scans, output, segmenter, resume=True).exit_code == 0
    assert (tmp_path / "mine_seg.nii.gz").read_bytes() == user


def test_a_mask_of_an_earlier_run_may_be_a_channel(scans, segmenter, tmp_path):
    from helpers.segment_bundle import make_rounding_bundle

    segment(scans, tmp_path / "out", segmenter)
    both = make_rounding_bundle(tmp_path / "two", channels=2)
    mask = nib.load(tmp_path / "out" / "0_seg.nii.gz")
    assert mask.shape == (14, 12, 10)
    (tmp_path / "list.csv").write_text("a,b\nin/0.nii.gz,out/0_seg.nii.gz\n")
    assert segment(tmp_path / "list.csv", tmp_path / "o", both).exit_code == 0


def test_rights_and_long_names_are_not_called_a_full_disk(segmenter, tmp_path):
    save(tmp_path / "in" / f"{'n' * 247}.nii", blocks())
    summary = segment(tmp_path / "in", tmp_path / "out", segmenter)
    (reason,) = reasons(summary).values()
    assert "File name too long" in reason and "Shorten the name" in reason
    assert "Free space" not in reason


@pytest.mark.parametrize("resume", [False, True])
def test_a_mask_that_somebody_corrected_is_kept(resume, scans, segmenter, tmp_path):
    """A run again would have replaced hours of a person's work, with exit code 0."""
    output, mask = tmp_path / "out", tmp_path / "out" / "0_seg.nii.gz"
    assert segment(scans, output, segmenter).exit_code == 0
    by_hand = [save(mask, np.full((14, 12, 10), k, "u1")).read_bytes() for k in (1, 2)]
    for k, name in enumerate(("0_seg.nii.gz.outdated", "0_seg.nii.gz.outdated.2")):
        mask.write_bytes(by_hand[k])
        summary = segment(scans, output, segmenter, resume=resume)
        assert summary.exit_code == 0 and (output / name).read_bytes() == by_hand[k]
        assert any(f"kept as {name}" in note for note in summary.rows[0]["notes"])
        assert np.array_equal(labels_of(mask), np.round(blocks(seed=0)))
    assert segment(scans, output, segmenter, resume=resume).rows[1]["notes"] == []
    assert len(list(output.glob("*.outdated*"))) == 2
