"""The run over a folder: tables, resume, lists, options, exit codes."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from helpers.segment_bundle import (
    blocks,
    change,
    labels_of,
    make_bundle,
    make_rounding_bundle,
    read,
    reasons,
    save,
    segment,
)
from perforated_monai.commands.main import main
from perforated_monai.errors import UserError
from perforated_monai.inference.segment import Segmenter
from perforated_monai.inference.segment.cases import find_cases
from perforated_monai.inference.segment.limits import measure_ranges, outside_ranges


def rows_of(output: Path) -> list[dict[str, str]]:
    with (output / "cases.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_tables_say_what_was_done(scans, segmenter, tmp_path):
    (scans / "bad.nii").write_bytes(b"no")
    summary = segment(scans, tmp_path / "out", segmenter)
    table = rows_of(tmp_path / "out")
    assert [row["case"] for row in table] == ["0.nii.gz", "1.nii.gz", "2.nii.gz", "bad.nii"]
    lines = (tmp_path / "out" / "cases.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == summary.rows
    for k, row in enumerate(table[:3]):
        labels = labels_of(tmp_path / "out" / row["mask"])
        assert row["status"] == "done" and row["reason"] == row["notes"] == ""
        for value, name in segmenter.bundle.labels.items():
            name = name.replace(" ", "_")
            assert float(row[f"volume_ml_{name}"]) == pytest.approx((labels == value).sum() / 1000)
            assert int(row[f"components_{name}"]) == 1
        assert row["input_sha256"] == digest(scans / f"{k}.nii.gz")
        assert row["mask_sha256"] == digest(tmp_path / "out" / row["mask"])
        assert row["bundle_version"] == segmenter.bundle.version
        for part in ("read", "network", "write"):
            assert float(row[f"seconds_{part}"]) >= 0
        assert 0 < float(row["confidence_lowest_decile"]) <= float(row["confidence_mean"]) <= 1
    assert table[3]["status"] == "failed" and table[3]["mask"] == ""


def test_resume_does_only_what_is_missing_or_changed(scans, bundle, segmenter, tmp_path):
    output = tmp_path / "out"
    (scans / "late.nii").write_bytes(b"no")
    assert segment(scans, output, segmenter).exit_code == 3
    before = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in output.glob("*_seg*")}
    (output / "1_seg.nii.gz").unlink()
    data = bytearray((output / "2_seg.nii.gz").read_bytes())
    data[30] ^= 1
    (output / "2_seg.nii.gz").write_bytes(bytes(data))
    save(scans / "late.nii", blocks(seed=9))
    summary = segment(scans, output, segmenter, resume=True)
    assert summary.exit_code == 0 and summary.kept == 1 and len(rows_of(output)) == 4
    assert (output / "0_seg.nii.gz").stat().st_mtime_ns == before["0_seg.nii.gz"][0]
    for name, (_, whole) in before.items():
        assert (output / name).read_bytes() == whole
    assert segment(scans, output, segmenter, resume=True).kept == 4
    save(scans / "0.nii.gz", blocks(seed=20))
    assert segment(scans, output, segmenter, resume=True).kept == 3
    assert np.array_equal(labels_of(output / "0_seg.nii.gz"), np.round(blocks(seed=20)))
    other = Segmenter(bundle, device="cpu", overlap=0.5)
    assert segment(scans, output, other, resume=True).kept == 0
    assert segment(scans, output, other).kept == 0


def test_torn_last_line_of_the_table_is_done_again(scans, segmenter, tmp_path):
    segment(scans, tmp_path / "out", segmenter)
    table = tmp_path / "out" / "cases.jsonl"
    table.write_bytes(table.read_bytes()[:-30])
    summary = segment(scans, tmp_path / "out", segmenter, resume=True)
    assert summary.kept == 2 and len(rows_of(tmp_path / "out")) == 3


def test_exit_codes_and_messages_of_the_command(scans, bundle, tmp_path, capsys):
    arguments = ["--bundle", str(bundle), "--device", "cpu"]
    assert main(["segment", str(scans), str(tmp_path / "out"), *arguments]) == 0
    assert "3 done, 0 failed" in capsys.readouterr().out
    (scans / "bad.nii").write_bytes(b"no")
    assert main(["segment", str(scans), str(tmp_path / "out"), *arguments, "--resume"]) == 3
    shown = capsys.readouterr()
    assert "3 of them kept" in shown.out and "FAILED bad.nii: it must begin" in shown.err
    one = [str(scans / "bad.nii"), str(tmp_path / "none")]
    assert main(["segment", *one, *arguments]) == 1
    capsys.readouterr()
    for wrong, words in (
        ([str(tmp_path / "absent"), "o", *arguments], "does not exist"),
        ([str(scans), str(scans), *arguments], "must not be the input folder"),
        ([str(scans), "o", "--bundle", str(tmp_path)], "is no bundle"),
        ([str(scans), "o", *arguments, "--engine", "magic"], "engine must be auto or one of"),
        ([str(scans), "o", "--bundle", str(bundle), "--device", "abacus"], "device must be"),
    ):
        assert main(["segment", *wrong]) == 1
        error = capsys.readouterr().err.strip().splitlines()
        assert len(error) == 1 and words in error[0], error
    for usage in (["--overlapp", "0.5"], ["--overlap", "1.5"], ["--workers", "0"]):
        assert main(["segment", str(scans), "o", *arguments, *usage]) == 2
    assert not Path("o").exists()


def test_list_with_several_channels(tmp_path):
    bundle = make_rounding_bundle(tmp_path / "b", channels=2)
    first, second = blocks(seed=1), blocks(seed=2)
    save(tmp_path / "d" / "a.nii.gz", first)
    save(tmp_path / "d" / "b.nii.gz", second)
    save(tmp_path / "d" / "shifted.nii.gz", second, np.diag([1, 1, 2, 1]))
    save(tmp_path / "d" / "both.nii.gz", np.stack([first, second], -1))
    (tmp_path / "list.csv").write_text(
        "case,t1,t2\np1/x,d/a.nii.gz,d/b.nii.gz\np2/x,d/b.nii.gz,d/a.nii.gz\n"
        "off,d/a.nii.gz,d/shifted.nii.gz\nlone,d/a.nii.gz,\n"
    )
    summary = segment(tmp_path / "list.csv", tmp_path / "out", bundle)
    found = reasons(summary)
    assert sorted(found) == ["lone", "off"]
    assert "on one grid" in found["off"] and "t2 of this case" in found["lone"]
    assert np.array_equal(labels_of(tmp_path / "out" / "p1" / "x_seg.nii.gz"), np.round(first))
    assert np.array_equal(labels_of(tmp_path / "out" / "p2" / "x_seg.nii.gz"), np.round(second))
    entries = [{"case": "two", "image": ["d/a.nii.gz", "d/b.nii.gz"]}, {"image": "d/both.nii.gz"}]
    (tmp_path / "list.json").write_text(json.dumps(entries))
    assert segment(tmp_path / "list.json", tmp_path / "json", bundle).exit_code == 0
    assert np.array_equal(labels_of(tmp_path / "json" / "two_seg.nii.gz"), np.round(first))
    assert np.array_equal(labels_of(tmp_path / "json" / "d" / "both_seg.nii.gz"), np.round(first))
    (tmp_path / "list.csv").write_text("case,t1,t2\n../x,d/a.nii.gz,d/b.nii.gz\n")
    with pytest.raises(UserError, match=r"without '\.\.'"):
        segment(tmp_path / "list.csv", tmp_path / "out", bundle)


def test_what_is_searched_and_what_is_left_out(tmp_path):
    names = ("a.nii", "b/c.NII.GZ", "imagesTr/d.nii.gz", ".hidden.nii", ".git/e.nii", "notes.txt")
    for name in (*names, "labelsTr/d.nii.gz", "out/old_seg.nii.gz", "f.mgz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    cases, left_out = find_cases(tmp_path, tmp_path / "out")
    assert [c.name for c in cases] == ["a.nii", "b/c.NII.GZ", "f.mgz", "imagesTr/d.nii.gz"]
    assert [c.target for c in cases] == ["a", "b/c", "f.mgz", "imagesTr/d"]
    assert [bool(c.problem) for c in cases] == [False, False, True, False]
    assert left_out == [
        "labelsTr: labels of an MSD data set",
        "2 hidden files or folders (.git, .hidden.nii)",
        "1 other file (notes.txt)",
    ]
    anonymous = find_cases(tmp_path, tmp_path / "out", anonymous=True)[1]
    assert anonymous == ["1 folder", "2 hidden files or folders", "1 other file"]
    assert len({c.target for c in find_cases(tmp_path, tmp_path / "out", anonymous=True)[0]}) == 4


def test_two_runs_cannot_share_an_output_folder(scans, segmenter, tmp_path):
    from perforated_monai.inference.segment.folder import _locked

    with _locked(tmp_path / "out"), pytest.raises(UserError, match="in use by another run"):
        segment(scans, tmp_path / "out", segmenter)


def test_volume_unlike_the_training_volumes_is_refused_or_marked(scans, bundle, tmp_path):
    (tmp_path / "b").mkdir()
    shutil.copytree(bundle, tmp_path / "b", dirs_exist_ok=True)
    ranges = measure_ranges(scans.glob("*.nii.gz"))
    assert ranges["size_mm"] == [[28, 28], [12, 12], [5, 5]] and ranges["cases"] == 3
    config = read(tmp_path / "b", "metadata.json")["segment"] | {"training_ranges": ranges}
    change(tmp_path / "b", "metadata.json", segment=config)
    head = np.zeros((90, 100, 80), "u1")
    head[40:50, 40:60, 40:50] = 1
    save(scans / "head.nii", head, np.diag([2, 1, 0.5, 1]))
    save(scans / "coarse.nii", blocks(), np.diag([2, 1, 0.9, 1]))
    # The same extent with other axes first: axes are compared in the patient, not in the file.
    turned = np.moveaxis(blocks(seed=1), 0, 2)[:, :, ::-1]
    affine = np.array([[0, 0, -2, 0], [1, 0, 0, 0], [0, 0.5, 0, 0], [0, 0, 0, 1]])
    save(scans / "turned.nii", turned, affine)
    summary = segment(scans, tmp_path / "out", tmp_path / "b")
    found = reasons(summary)
    assert sorted(found) == ["coarse.nii", "head.nii"]
    assert "left-right extent is 180 mm" in found["head.nii"]
    assert "voxel size is 0.9 mm" in found["coarse.nii"] and "trained on 28 mm" in found["head.nii"]
    allowed = Segmenter(tmp_path / "b", device="cpu", allow_out_of_range=True)
    summary = segment(scans, tmp_path / "out", allowed)
    assert summary.exit_code == 0
    marked = {row["case"]: row["notes"] for row in summary.rows}
    assert "out of range" in marked["coarse.nii"][0] and marked["0.nii.gz"] == []


def test_ranges_of_the_shipped_bundle_take_its_training_volumes(hippocampus, repo):
    metadata = repo / "bundles" / "hippocampus_mri_dendritic" / "configs" / "metadata.json"
    ranges = json.loads(metadata.read_text())["segment"]["training_ranges"]
    files = sorted((hippocampus / "imagesTr").glob("*.nii.gz"))
    assert measure_ranges(files) == ranges
    affine = np.eye(4)
    assert outside_ranges((35, 50, 35), affine, ranges) is None
    assert "extent" in outside_ranges((180, 220, 180), affine, ranges)
    told = outside_ranges((35, 50, 18), np.diag([1, 1, 2, 1]), ranges)
    assert "voxel size is 2 mm; the network was trained on 1 mm and accepts" in told


def test_probabilities_lie_on_the_grid_and_agree_with_the_mask(tmp_path):
    bundle = make_bundle(tmp_path / "b")
    values = np.random.default_rng(0).normal(100, 20, (21, 18, 25)).astype("f4")
    save(tmp_path / "in" / "a.nii.gz", values, np.diag([-1, 1, 1, 1]))
    plain = segment(tmp_path / "in", tmp_path / "plain", bundle)
    more = Segmenter(bundle, device="cpu", probabilities=True)
    assert segment(tmp_path / "in", tmp_path / "out", more).exit_code == 0
    mask = nib.load(tmp_path / "out" / "a_seg.nii.gz")
    assert digest(tmp_path / "out" / "a_seg.nii.gz") == plain.rows[0]["mask_sha256"]
    found = nib.load(tmp_path / "out" / "a_prob.nii.gz")
    probabilities = found.get_fdata()
    assert probabilities.shape == (21, 18, 25, 3) and np.array_equal(found.affine, mask.affine)
    assert np.allclose(probabilities.sum(-1), 1, atol=1e-4)
    chosen = np.take_along_axis(probabilities, np.asarray(mask.dataobj)[..., None], -1)[..., 0]
    assert (chosen >= probabilities.max(-1) - 1e-4).all()
