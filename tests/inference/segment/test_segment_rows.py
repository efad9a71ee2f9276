"""As many rows as cases, and a mask, read once more, for each that is done."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from helpers.segment_bundle import blocks, change, labels_of, read, reasons, save, segment
from perforated_monai.commands.main import main
from perforated_monai.errors import UserError
from perforated_monai.inference.segment import Segmenter, folder, opened


def table_of(output: Path) -> list[dict[str, str]]:
    with (output / "cases.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_a_library_that_changes_the_working_folder_costs_no_mask(
    scans, bundle, tmp_path, monkeypatch
):
    """ITK does while it loads; paths were relative, and 4 of 4 mixed runs lost masks at exit 0."""
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(bundle, tmp_path / "b")
    reading = opened.read_scan

    def wandering(*arguments):
        os.chdir(tmp_path / "elsewhere")
        return reading(*arguments)

    monkeypatch.setattr(opened, "read_scan", wandering)
    monkeypatch.chdir(tmp_path)
    (scans / "bad.nii").write_bytes(b"no")
    assert main(["segment", "in", "out", "--bundle", "b", "--device", "cpu", "--preview"]) == 3
    monkeypatch.chdir(tmp_path)
    assert [row["status"] for row in table_of(tmp_path / "out")] == ["done"] * 3 + ["failed"]
    for k in range(3):
        found = labels_of(tmp_path / "out" / f"{k}_seg.nii.gz")
        assert np.array_equal(found, np.round(blocks(seed=k)))
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("left", ["nothing", "another"])
def test_a_mask_that_vanishes_in_mid_run_is_a_failure_by_name(
    left, scans, segmenter, tmp_path, monkeypatch, capsys
):
    output, doing = tmp_path / "out", folder.CaseRun.__call__

    def deleting(run, done):
        if done.name == "2.nii.gz":
            shutil.rmtree(output)
            if left == "another":
                save(output / "0_seg.nii.gz", np.zeros((14, 12, 10), "u1"))
        return doing(run, done)

    monkeypatch.setattr(folder.CaseRun, "__call__", deleting)
    summary = segment(scans, output, segmenter, workers=1)
    assert summary.exit_code == 1 and summary.lost == ["0.nii.gz", "1.nii.gz"]
    assert [row["case"] for row in summary.rows] == ["0.nii.gz", "1.nii.gz", "2.nii.gz"]
    assert "its mask is gone" in reasons(summary)["1.nii.gz"]
    table = table_of(output)
    assert [row["status"] for row in table] == ["failed", "failed", "done"]


def test_two_names_that_print_alike_have_rows_of_their_own(segmenter, tmp_path):
    for seed, name in enumerate(("a\nb.nii", "a\\nb.nii", "a\\\\nb.nii")):
        save(tmp_path / "in" / name, blocks(seed=seed))
    summary = segment(tmp_path / "in", tmp_path / "out", segmenter)
    assert summary.exit_code == 0 and len({row["case"] for row in summary.rows}) == 3
    assert len(table_of(tmp_path / "out")) == 3
    for seed, name in enumerate(("a\nb", "a\\nb", "a\\\\nb")):
        found = labels_of(tmp_path / "out" / f"{name}_seg.nii.gz")
        assert np.array_equal(found, np.round(blocks(seed=seed)))
    assert segment(tmp_path / "in", tmp_path / "out", segmenter, resume=True).kept == 3


def test_a_name_that_a_list_gives_twice_is_refused_and_the_others_are_done(scans, bundle, tmp_path):
    rows = ["x,in/0.nii.gz", "y,in/1.nii.gz", "x,in/2.nii.gz", "x/,in/2.nii.gz"]
    (tmp_path / "list.csv").write_text("\n".join(["case,image", *rows]) + "\n")
    summary = segment(tmp_path / "list.csv", tmp_path / "out", bundle)
    assert summary.exit_code == 3
    assert sorted(reasons(summary)) == ["x", "x (2)", "x (3)"]
    assert "3 cases have this name" in reasons(summary)["x"]
    assert [row["case"] for row in table_of(tmp_path / "out")] == ["x", "x (2)", "x (3)", "y"]
    assert [p.name for p in (tmp_path / "out").glob("*.nii.gz")] == ["y_seg.nii.gz"]


def test_a_postfix_of_the_bundle_cannot_lead_out_of_the_output(bundle, tmp_path):
    for k, postfix in enumerate(("../evil", "/evil", "a/b", "a\nb")):
        copy = Path(shutil.copytree(bundle, tmp_path / str(k)))
        config = read(copy, "inference.json")["postprocessing"]
        saving = [t for t in config["transforms"] if t["_target_"] == "SaveImaged"]
        saving[0]["output_postfix"] = postfix
        change(copy, "inference.json", postprocessing=config)
        with pytest.raises(UserError, match="output_postfix"):
            Segmenter(copy)


@pytest.mark.parametrize(("place", "others", "code"), [("elsewhere", ["p2"], 3), ("out2", [], 1)])
def test_a_link_in_the_output_that_leads_elsewhere_gets_no_mask(
    place, others, code, segmenter, tmp_path
):
    """Also where the other folder's name begins as that of the output."""
    for name in ("p1", *others):
        save(tmp_path / "in" / name / "a.nii", blocks())
    (tmp_path / place).mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "p1").symlink_to(tmp_path / place)
    summary = segment(tmp_path / "in", tmp_path / "out", segmenter)
    assert summary.exit_code == code
    assert "a link to another place" in reasons(summary)["p1/a.nii"]
    assert list((tmp_path / place).iterdir()) == []


def test_a_zip_is_no_bundle(bundle, tmp_path):
    packed = shutil.make_archive(str(tmp_path / "b"), "zip", bundle)
    with pytest.raises(UserError, match="Unpack it"):
        Segmenter(packed)


def with_steps(bundle: Path, folder: Path, **saving: str) -> Path:
    """A copy whose SaveImaged has these arguments; without any, the postprocessing is empty."""
    copy = Path(shutil.copytree(bundle, folder))
    config = read(copy, "inference.json")["postprocessing"]
    for step in config["transforms"]:
        step.update(saving if step["_target_"] == "SaveImaged" else {})
    config["transforms"] = config["transforms"] if saving else []
    change(copy, "inference.json", postprocessing=config)
    return copy


def test_probabilities_do_not_take_the_name_of_the_mask(bundle, tmp_path):
    copy = with_steps(bundle, tmp_path / "b", output_postfix="prob")
    assert Segmenter(copy, device="cpu").bundle.postfix == "prob"
    with pytest.raises(UserError, match=r"output_postfix.*would have one name"):
        Segmenter(copy, device="cpu", probabilities=True)


def test_what_is_no_label_is_no_mask(bundle, scans, tmp_path):
    """Found by the fuzzing suite: logits, cut to whole numbers, were masks of 254 and 255."""
    summary = segment(scans, tmp_path / "out", with_steps(bundle, tmp_path / "b"))
    assert summary.exit_code == 1 and not list((tmp_path / "out").glob("*.nii.gz"))
    assert "must end in labels, whole numbers from 0 on" in reasons(summary)["0.nii.gz"]


def test_a_batch_of_a_billion_windows_ends(bundle, scans, tmp_path):
    copy = Path(shutil.copytree(bundle, tmp_path / "b"))
    change(copy, "inference.json", sw_batch_size=10**9)
    assert segment(scans, tmp_path / "out", copy).exit_code == 0
    found = labels_of(tmp_path / "out" / "0_seg.nii.gz")
    assert np.array_equal(found, np.round(blocks(seed=0)))


def test_weights_that_memory_does_not_take_are_refused_by_name(bundle, tmp_path):
    copy = Path(shutil.copytree(bundle, tmp_path / "b"))
    with (copy / "models" / "model.pt").open("r+b") as handle:
        handle.truncate(300 * 2**30)
    with pytest.raises(UserError, match=r"model\.pt has 322,122,547,200 bytes"):
        Segmenter(copy)
