"""The run over a folder: tables, resume, lists, options, exit codes."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import threading
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

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
from perforated_monai.inference.segment.predictor import mirrored
from perforated_monai.inference.segment.reduce import ConfidenceHistogram
from perforated_monai.inference.segment.table import measure_structures


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return make_rounding_bundle(tmp_path_factory.mktemp("rounding") / "bundle")


@pytest.fixture(scope="module")
def segmenter(bundle) -> Segmenter:
    return Segmenter(bundle, device="cpu")


@pytest.fixture
def scans(tmp_path) -> Path:
    for k in range(3):
        save(tmp_path / "in" / f"{k}.nii.gz", blocks(seed=k), np.diag([2, 1, 0.5, 1]))
    return tmp_path / "in"


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
        ([str(scans), "o", *arguments, "--overlap", "1.5"], "overlap must be"),
        ([str(scans), "o", *arguments, "--engine", "magic"], "engine must be auto or one of"),
        ([str(scans), "o", "--bundle", str(bundle), "--device", "abacus"], "device must be"),
        ([str(scans), "o", *arguments, "--workers", "0"], "at least 1"),
    ):
        assert main(["segment", *wrong]) == 1
        error = capsys.readouterr().err.strip().splitlines()
        assert len(error) == 1 and words in error[0], error
    assert main(["segment", str(scans), "o", *arguments, "--overlapp", "0.5"]) == 2
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
    assert "on one grid" in found["off"] and "needs 2 channels" in found["lone"]
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
    assert left_out == ["labelsTr: labels of an MSD data set"]
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
    save(scans / "head.nii", np.zeros((90, 100, 80), "u1"), np.diag([2, 1, 0.5, 1]))
    save(scans / "coarse.nii", blocks(), np.diag([2, 1, 0.9, 1]))
    # The same extent with other axes first: axes are compared in the patient, not in the file.
    turned = np.moveaxis(blocks(seed=1), 0, 2)[:, :, ::-1]
    affine = np.array([[0, 0, -2, 0], [1, 0, 0, 0], [0, 0.5, 0, 0], [0, 0, 0, 1]])
    save(scans / "turned.nii", turned, affine)
    summary = segment(scans, tmp_path / "out", tmp_path / "b")
    found = reasons(summary)
    assert sorted(found) == ["coarse.nii", "head.nii"]
    assert "left-right extent is 180 mm" in found["head.nii"]
    assert "voxel size is 0.9 mm" in found["coarse.nii"] and "28 to 28" in found["head.nii"]
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
    assert "voxel size" in outside_ranges((35, 50, 18), np.diag([1, 1, 2, 1]), ranges)


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


def test_mirroring_averages_and_is_symmetric(tmp_path):
    bundle = make_bundle(tmp_path / "b")
    segmenter = Segmenter(bundle, device="cpu", tta=True)
    x = torch.randn((1, 1, 16, 16, 16), generator=torch.Generator().manual_seed(0))
    plain = Segmenter(bundle, device="cpu").predict
    expected = (plain(x) + plain(x.flip(2)).flip(2)) / 2
    assert torch.allclose(segmenter.predict(x), expected, atol=1e-6)
    assert not torch.allclose(segmenter.predict(x), plain(x), atol=1e-3)
    both = mirrored(plain, (0, 2))
    for dims in ([2], [4], [2, 4]):
        assert torch.allclose(both(x.flip(dims)).flip(dims), both(x), atol=1e-5)
    segment_config = read(bundle, "metadata.json")["segment"] | {"mirror_axes": []}
    change(bundle, "metadata.json", segment=segment_config)
    with pytest.raises(UserError, match="mirror_axes"):
        Segmenter(bundle, device="cpu", tta=True)


def test_empty_borders_are_skipped_where_the_bundle_says_so(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "b")
    config = read(tmp_path / "b", "metadata.json")["segment"] | {"skip_empty_border": True}
    change(tmp_path / "b", "metadata.json", segment=config)
    values = np.full((40, 20, 44), -1, "f4")
    values[22:34, 3:13, 5:13] = np.round(blocks((12, 10, 8)))
    skipping, whole = (Segmenter(path, device="cpu") for path in (tmp_path / "b", bundle))
    seen: list[int] = []
    predict = skipping.predict
    skipping.predict = lambda x: (seen.append(len(x)), predict(x))[1]
    found = skipping(values, np.eye(4))
    assert np.array_equal(found.labels, whole(values, np.eye(4)).labels)
    assert sum(seen) == 1  # of the 24 windows of the whole volume
    empty = skipping(np.zeros((20, 20, 20)), np.eye(4))
    assert not empty.labels.any() and empty.confidence.mean is None


def test_one_segmenter_serves_several_threads(bundle):
    segmenter = Segmenter(bundle, device="cpu")
    wrong: list[int] = []

    def work(seed: int) -> None:
        for k in range(4):
            values = blocks((12, 11, 9), seed=10 * seed + k)
            affine = np.diag([(-1) ** seed, 1, (-1) ** k, 1])
            if not np.array_equal(segmenter(values, affine).labels, np.round(values)):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_library_refuses_what_it_cannot_segment(segmenter):
    for array, affine, words in (
        (np.zeros((5, 5)), np.eye(4), "array must be"),
        (np.zeros((2, 5, 5, 5)), np.eye(4), "needs 1 channel"),
        (np.full((5, 5, 5), np.nan), np.eye(4), "finite"),
        (np.zeros((5, 5, 5)), np.zeros((4, 4)), "singular"),
        (np.zeros((5, 5, 5)), np.eye(3), "4 × 4"),
        (np.zeros((5, 5, 5), complex), np.eye(4), "real numbers"),
    ):
        with pytest.raises(UserError, match=words):
            segmenter(array, affine)


def test_preview_shows_the_structure_and_is_the_same_every_time(scans, segmenter, tmp_path):
    from PIL import Image

    for name in ("a", "b"):
        assert segment(scans, tmp_path / name, segmenter, preview=True).exit_code == 0
    first = tmp_path / "a" / "0_preview.png"
    assert first.read_bytes() == (tmp_path / "b" / "0_preview.png").read_bytes()
    pixels = np.asarray(Image.open(first).convert("RGB")).reshape(-1, 3).astype(int)
    for colour in ((0xE6, 0x9F, 0x00), (0x56, 0xB4, 0xE9)):  # outlines of both structures
        assert (np.abs(pixels - colour).max(1) < 20).sum() > 100
    first.unlink()
    assert segment(scans, tmp_path / "a", segmenter, preview=True, resume=True).kept == 2
    assert first.is_file()


def test_planes_of_a_preview_have_one_scale(tmp_path):
    from PIL import Image

    from perforated_monai.inference.segment.preview import write_preview

    # A cube of 20 mm, its voxels of three sizes, in a volume of three extents.
    labels = np.zeros((30, 20, 25), np.uint8)
    labels[5:15, 5:15, 4:8] = 1
    affine = np.diag([2, 2, 5, 1])
    write_preview(tmp_path / "p.png", labels * 0.0, labels, affine, {1: "cube"}, "case")
    pixels = np.asarray(Image.open(tmp_path / "p.png").convert("RGB")).astype(int)
    outline = np.abs(pixels - (0xE6, 0x9F, 0x00)).max(-1) < 20
    outline[420:] = False  # the legend
    columns = np.flatnonzero(outline.any(0))
    planes = np.split(columns, np.flatnonzero(np.diff(columns) > 5) + 1)
    widths = [int(p[-1] - p[0]) for p in planes]
    heights = [int(np.ptp(np.flatnonzero(outline[:, p].any(1)))) for p in planes]
    assert len(planes) == 3 and np.ptp(widths + heights) <= 2 and min(widths) > 40


def test_picture_of_the_docs_is_what_the_command_makes(repo, tmp_path):
    from PIL import Image

    from perforated_monai.data.phantoms import make_phantoms

    committed = repo / "bundles" / "hippocampus_mri_dendritic"
    phantoms = make_phantoms(tmp_path / "phantoms", cases=2, seed=4)
    assert segment(phantoms / "imagesTr", tmp_path / "out", committed, preview=True).exit_code == 0
    made, shown = (
        np.asarray(Image.open(path).convert("RGB")).astype(int)
        for path in (
            tmp_path / "out" / "phantom_000_preview.png",
            committed / "docs" / "segment_preview.png",
        )
    )
    assert made.shape == shown.shape
    assert np.mean(np.abs(made - shown).max(-1) > 40) < 0.01  # other fonts, no other outlines


def test_measured_structures_of_a_known_mask():
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[1:3, 1:3, 1:3] = 1
    labels[3, 3, 3] = 1  # touches by a corner
    labels[6:8, 6, 6] = 1
    labels[5, 0:3, 0] = 3
    found = measure_structures(labels, np.diag([2, 1, 0.5, 1]), {1: "a", 2: "b", 3: "c"})
    assert [(s.name, s.volume_ml, s.components) for s in found] == [
        ("a", 0.011, 2),
        ("b", 0.0, 0),
        ("c", 0.003, 1),
    ]


def test_confidence_is_that_of_the_foreground():
    logits = torch.randn((3, 20, 20, 20), generator=torch.Generator().manual_seed(0)) * 3
    labels = logits.argmax(0, keepdim=True)
    parts = ConfidenceHistogram()
    for k in range(0, 20, 3):
        parts.add(logits[:, k : k + 3], labels[:, k : k + 3], sigmoid=False)
    values = torch.softmax(logits, 0).amax(0)[labels[0] > 0].double()
    assert parts.confidence.mean == pytest.approx(float(values.mean()), abs=1e-6)
    assert parts.confidence.lowest_decile == pytest.approx(float(values.quantile(0.1)), abs=3e-4)


def test_damaged_bundles_are_refused_by_file(tmp_path, bundle):
    def broken(name: str) -> Path:
        return Path(shutil.copytree(bundle, tmp_path / name))

    folder = broken("weights")
    (folder / "models" / "model.pt").unlink()
    with pytest.raises(UserError, match=r"models/model\.pt"):
        Segmenter(folder)
    folder = broken("json")
    (folder / "configs" / "inference.json").write_text("{")
    with pytest.raises(UserError, match=r"inference\.json is not JSON"):
        Segmenter(folder)
    folder = broken("network")
    change(folder, "inference.json", network_def={})
    with pytest.raises(UserError, match="must have network_def"):
        Segmenter(folder)
    folder = broken("loading")
    steps = read(folder, "inference.json")["preprocessing"]["transforms"][1:]
    change(folder, "inference.json", preprocessing={"_target_": "Compose", "transforms": steps})
    with pytest.raises(UserError, match="must begin with LoadImaged"):
        Segmenter(folder)
    folder = broken("inverse")
    steps = read(folder, "inference.json")["postprocessing"]["transforms"][:1]
    change(folder, "inference.json", postprocessing={"_target_": "Compose", "transforms": steps})
    with pytest.raises(UserError, match="input's grid"):
        Segmenter(folder)(blocks(), np.diag([-1, 1, 1, 1]))
