"""The plan: nnU-Net's rules for crop, strides and batch, each on data made to show it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser

from helpers.harness import BUNDLE, CPU, history, initialised
from helpers.msd import fill, image_of, label_of, save
from perforated_monai.commands.main import main
from perforated_monai.data.fingerprint import Fingerprint, Intensity, measure
from perforated_monai.data.manifest import load_manifest
from perforated_monai.data.plan import (
    channels_of,
    make_plan,
    step_bytes,
    strides_of,
    target_spacing,
)
from perforated_monai.data.prepare import write_manifest
from perforated_monai.errors import UserError

GIB = 2**30


def fingerprint(spacings: list, shapes: list, cases: int = 40) -> Fingerprint:
    rows = np.array(shapes, int).reshape(-1, 3)
    mm = np.array(spacings, float).reshape(-1, 3)
    values = [Intensity("MRI", 0, 1, 2, 1, 1)]
    return Fingerprint("made", cases, len(rows), mm, rows, rows, 0.0, 0.01, values, 2)


# --- the rules


def test_hippocampus_gets_the_patch_that_nnunet_plans() -> None:
    """nnunetv2 2.8.1 on the 260 cases of Task04: patch 40 x 56 x 40, three halvings, batch 9."""
    plan = make_plan(fingerprint([[1, 1, 1]] * 3, [[35, 51, 36]] * 3, cases=260), 8 * GIB)
    assert plan.roi_size == [40, 56, 40]
    assert plan.strides == [[2, 2, 2]] * 3
    assert plan.channels == [32, 64, 128, 256]
    assert plan.batch_size == 9


def test_a_thick_axis_has_no_stride_until_the_others_are_as_thick() -> None:
    strides, reasons = strides_of([256, 256, 24], [0.9, 0.9, 6.5])
    assert strides[:2] == [[2, 2, 1], [2, 2, 1]]
    assert strides[2] == [2, 2, 2]  # 3.6 mm beside 6.5: within a factor of 2
    assert "axis z waits" in reasons[0] and "axis z waits" not in reasons[2]
    assert len(reasons) == len(strides)


def test_an_axis_with_few_voxels_is_not_halved_further() -> None:
    strides, reasons = strides_of([64, 64, 8], [1, 1, 1])
    halved = [math.prod(row[axis] for row in strides) for axis in range(3)]
    assert halved == [16, 16, 2]
    assert "axis z has too few voxels" in reasons[-1]
    assert strides_of([6, 6, 6], [1, 1, 1])[0] == [[1, 1, 1]]


@pytest.mark.parametrize(
    ("spacing", "shape"),
    [
        ([1, 1, 1], [35, 51, 36]),
        ([0.9, 0.9, 6.5], [256, 256, 24]),
        ([0.8, 0.8, 2.5], [512, 512, 120]),
        ([5, 1, 1], [19, 200, 180]),
        ([1, 1, 1], [5, 6, 7]),
    ],
)
def test_the_crop_is_divisible_and_fits_memory_and_the_median(spacing: list, shape: list) -> None:
    for memory in (8, 2, 0.5):
        plan = make_plan(fingerprint([spacing] * 3, [shape] * 3), int(memory * GIB))
        assert all(n % m == 0 for n, m in zip(plan.roi_size, plan.multiples, strict=True))
        assert plan.bytes_needed <= memory * GIB
        assert plan.batch_size >= 2
        near = zip(plan.roi_size, plan.median, plan.multiples, strict=True)
        assert all(n < median + multiple for n, median, multiple in near)
        assert len(plan.channels) == len(plan.strides) + 1 == len(plan.halvings) + 1


def test_a_spacing_far_from_the_others_still_has_a_plan() -> None:
    plan = make_plan(fingerprint([[1, 1, 1]] * 3, [[24, 24, 24]] * 3), GIB, 2, [1e-9, 1, 1])
    assert min(plan.roi_size) >= 1 and plan.batch_size >= 2


def test_less_memory_gives_a_smaller_crop_or_batch_and_none_is_refused() -> None:
    facts = fingerprint([[1, 1, 1]] * 3, [[200, 200, 160]] * 3)
    sizes = [
        np.prod(make_plan(facts, int(m * GIB)).roi_size) * make_plan(facts, int(m * GIB)).batch_size
        for m in (8, 4, 2, 1)
    ]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]
    assert make_plan(facts, 64 * GIB) == make_plan(facts, 8 * GIB)
    with pytest.raises(UserError, match=r"memory for 2 crops of .* GiB are at hand\. Free some"):
        make_plan(facts, 2**16)


def test_thick_slices_are_resampled_to_their_finer_tenth() -> None:
    mixed = [[0.8, 0.8, mm] for mm in (3, 4, 5, 5, 5, 6, 6, 6, 7, 8)]
    facts = fingerprint(mixed, [[400, 400, 60]] * 10)
    assert target_spacing(facts) == pytest.approx(
        [0.8, 0.8, np.percentile([m[2] for m in mixed], 10)]
    )
    even = fingerprint([[1, 1, mm] for mm in (1, 2, 2, 2)], [[100, 100, 90]] * 4)
    assert target_spacing(even) == pytest.approx([1, 1, 2])  # not three times as thick: the median


def test_a_batch_sees_at_most_a_twentieth_of_the_voxels() -> None:
    few = make_plan(fingerprint([[1, 1, 1]] * 2, [[35, 51, 36]] * 2, cases=20), 8 * GIB)
    assert few.batch_size == 2


def test_the_estimate_of_memory_is_within_a_factor_of_two_of_what_was_measured() -> None:
    """Peak of one process on a CPU, 2026-11-29, torch 2.13.0, UNet of two residual units, batch 2.

    302 MiB for 64 x 64 x 64 voxels and strides of 2; 296 MiB for 96 x 96 x 16 with a first stride
    of 2, 2, 1: the growth of ru_maxrss over forward pass, DiceCELoss and backward pass.
    """
    channels = channels_of(4)
    even = step_bytes([64] * 3, [[2, 2, 2]] * 3, channels, 3, 2) / 2**20
    thick = step_bytes([96, 96, 16], [[2, 2, 1], [2, 2, 2], [2, 2, 2]], channels, 3, 2) / 2**20
    assert 302 / 2 < even < 302 * 2
    assert 296 / 2 < thick < 296 * 2


# --- what is measured


def test_axes_are_those_of_ras_whatever_the_volume_has(tmp_path: Path) -> None:
    """The bundles turn volumes first: a crop in the file's own axes would be turned wrongly."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[0, 1], affine[1, 2], affine[3, 3] = (
        -3,
        1,
        2,
        1,
    )  # axes S, R, A of 3, 1, 2 mm
    for case in range(6):
        for folder, make in (("imagesTr", image_of), ("labelsTr", label_of)):
            save(tmp_path / f"{folder}/case_{case}.nii.gz", make(case, (8, 9, 10)), affine)
    manifest = write_manifest(tmp_path, tmp_path / "m.json", "turned", test=False)
    facts = measure(manifest, tmp_path)
    assert facts.shapes.tolist() == [[9, 10, 8]] * 6
    assert facts.spacings == pytest.approx(np.array([[1.0, 2.0, 3.0]] * 6))


def test_padding_is_left_out_of_the_size_and_of_the_intensities(tmp_path: Path) -> None:
    for case in range(6):
        image = np.zeros((10, 10, 8), np.int16)
        image[1:9, 2:10, :5] = 100
        label = np.zeros((10, 10, 8), np.uint8)
        label[3:6, 3:6, 2] = 1
        image[label > 0] = 300 + case
        save(tmp_path / f"imagesTr/case_{case}.nii.gz", image)
        save(tmp_path / f"labelsTr/case_{case}.nii.gz", label)
    manifest = write_manifest(tmp_path, tmp_path / "m.json", "padded", test=False)
    facts = measure(manifest, tmp_path)
    assert facts.filled.tolist() == [[8, 8, 5]] * 6
    assert facts.zeros == pytest.approx(1 - 320 / 800)
    (value,) = facts.intensities
    assert (value.low, value.high) == pytest.approx((300, 305), abs=0.2)
    assert "not 0, voxels" in facts.text()


def test_channels_and_labels_that_nobody_named_are_counted(tmp_path: Path, capsys) -> None:
    """Fault: without a manifest the plan said 0 input channels, and described one of three."""
    for case in range(6):
        image, label = image_of(case), label_of(case)
        label[-3:, -3:, -3:] = 3
        save(tmp_path / f"d/imagesTr/case_{case}.nii.gz", np.stack([image] * 3, -1))
        save(tmp_path / f"d/labelsTr/case_{case}.nii.gz", label)
    plan = tmp_path / "plan.yaml"
    words = ["--root", str(tmp_path / "d"), "--plan", str(plan), "--memory", "2"]
    assert main(["prepare", *words]) == 0
    assert "channel 2 inside labels" in capsys.readouterr().out
    values = len({0, 3}.union(np.unique(label_of(0)).tolist()))
    said = " ".join(plan.read_text().replace("#", "").split())
    assert f"input channels (3, base_network_def::in_channels) and label values ({values}," in said


def test_a_spacing_that_is_wrong_is_refused_before_a_manifest_is_written(tmp_path, capsys) -> None:
    root = fill(tmp_path / "data")
    words = ["--root", str(root), "--write", str(root / "manifest.json"), "--spacing", "0,1,1"]
    assert main(["prepare", *words]) == 1
    assert "three numbers" in capsys.readouterr().err
    assert not (root / "manifest.json").exists()


def test_many_problems_of_one_folder_are_a_few_and_a_count(tmp_path, capsys) -> None:
    for case in range(6):
        for folder, make in (("imagesTr", image_of), ("labelsTr", label_of)):
            save(tmp_path / f"{folder}/case_{case}.nii.gz", make(case)[:, :, :1])
    assert main(["prepare", "--root", str(tmp_path), "--plan", str(tmp_path / "p.yaml")]) == 1
    said = capsys.readouterr().err
    assert said.count("must be 3-D with two or more voxels a side") == 5
    assert "12 problems" in said and "`check` lists all" in said


def test_the_test_part_is_not_measured(tmp_path: Path) -> None:
    root = fill(tmp_path / "data")
    manifest = write_manifest(root, root / "manifest.json", "tiny")
    assert measure(manifest, root).cases == 12 - len(manifest.test) > 0
    for case in manifest.test:
        (root / f"imagesTr/{case}.nii.gz").unlink()
    assert measure(manifest, root).cases == 12 - len(manifest.test)


# --- the command and its file


def test_prepare_prints_the_numbers_and_writes_an_overlay_with_reasons(tmp_path, capsys) -> None:
    root = fill(tmp_path / "data")
    words = ["prepare", "--root", str(root), "--write", str(root / "manifest.json")]
    assert main([*words, "--memory", "2"]) == 0
    printed = capsys.readouterr().out
    assert "spacing, mm" in printed and "percentiles 0.5, 50, 99.5" in printed
    text = (root / "plan.yaml").read_text()
    overlay = yaml.safe_load(text)
    keys = {"roi_size", "batch_size", "base_network_def::strides", "base_network_def::channels"}
    assert set(overlay) == keys
    assert all(len(line) <= 130 for line in text.splitlines())
    before = text
    assert main([*words, "--memory", "2"]) == 0  # a plan may be written again
    assert (root / "plan.yaml").read_text() == before


def test_a_spacing_given_by_hand_counts_and_is_said(tmp_path, capsys) -> None:
    for case in range(6):
        save(tmp_path / f"d/imagesTr/case_{case}.nii.gz", image_of(case, (64, 64, 12)))
        save(tmp_path / f"d/labelsTr/case_{case}.nii.gz", label_of(case, (64, 64, 12)))
    plan = tmp_path / "plan.yaml"
    words = ["prepare", "--root", str(tmp_path / "d"), "--plan", str(plan), "--memory", "2"]
    assert main([*words, "--spacing", "0.9,0.9,6.5"]) == 0
    assert yaml.safe_load(plan.read_text())["base_network_def::strides"][0] == [2, 2, 1]
    assert "take Spacingd out" in plan.read_text()
    assert main(words) == 0
    assert yaml.safe_load(plan.read_text())["base_network_def::strides"][0] == [2, 2, 2]


@pytest.mark.parametrize(
    ("cases", "words", "code", "message"),
    [
        (1, ["--plan", "{tmp}/plan.yaml"], 1, "a plan needs at least 2 training cases"),
        (0, ["--plan", "{tmp}/plan.yaml"], 1, "cannot be read"),
        (6, ["--plan", "{tmp}/plan.json"], 1, "must be a .yaml file"),
        (6, ["--plan", "{tmp}/notes.yaml"], 1, "exists and is no plan"),
        (6, ["--plan", "{tmp}/plan.yaml", "--spacing", "1,2"], 1, "three numbers"),
        (6, ["--plan", "{tmp}/plan.yaml", "--spacing", "thick"], 1, "three numbers"),
        (6, ["--plan", "{tmp}/plan.yaml", "--spacing", "1,1,-5"], 1, "three numbers"),
        (6, ["--plan", "{tmp}/plan.yaml", "--memory", "0"], 2, "memory"),
        (6, ["--plan", "{tmp}/plan.yaml", "--memory", "0.00001"], 1, "GiB are at hand"),
        (6, ["--memory", "2"], 2, "needs"),
    ],
)
def test_bad_input_is_one_line(cases, words, code, message, tmp_path, capsys) -> None:
    fill(tmp_path / "data", range(cases))
    (tmp_path / "notes.yaml").write_text("mine: 1\n")
    given = [word.format(tmp=tmp_path) for word in words]
    assert main(["prepare", "--root", str(tmp_path / "data"), *given]) == code
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "plan.yaml").exists()


def test_a_foreign_plan_is_kept_and_no_manifest_is_written_beside_it(tmp_path, capsys) -> None:
    root = fill(tmp_path / "data")
    (root / "plan.yaml").write_text("mine: 1\n")
    assert main(["prepare", "--root", str(root), "--write", str(root / "manifest.json")]) == 1
    assert "exists and is no plan" in capsys.readouterr().err
    assert not (root / "manifest.json").exists()


def test_training_takes_the_plan(few_phantoms: Path, tmp_path: Path) -> None:
    """Behind the bundle's own configuration, on phantoms, with fewer channels for time."""
    plan = tmp_path / "plan.yaml"
    words = ["--root", str(few_phantoms), "--plan", str(plan), "--memory", "0.3"]
    assert main(["prepare", *words]) == 0
    planned = yaml.safe_load(plan.read_text())
    files = [str(BUNDLE / "configs/train.json"), str(plan)]
    parser = ConfigParser(ConfigParser.load_config_files(files))
    network = parser.get_parsed_content("base_network_def")
    assert tuple(network.channels) == tuple(planned["base_network_def::channels"])
    crop = torch.zeros(1, 1, *planned["roi_size"])
    assert network.eval()(crop).shape == (1, 3, *planned["roi_size"])
    names = ["train.json", str(plan)]
    changes = {
        "epochs": 1,
        "base_network_def::channels": [4, 8, 8, 8, 8, 8][: len(network.channels)],
    }
    initialised(BUNDLE, names, few_phantoms, tmp_path / "run", device=CPU, **changes).run()
    assert [e["epoch"] for e in history(tmp_path / "run") if e["event"] == "epoch"] == [1]


def test_the_shipped_manifests_still_load() -> None:
    """Without patients, as every release wrote them."""
    for name in ("hippocampus_msd", "brain_tumor_msd", "spleen_msd", "phantom"):
        assert load_manifest(name).patients == {}
