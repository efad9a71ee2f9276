"""Masks lie on the grid of their scan, whatever its axes, and are those of ``monai.bundle run``."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from helpers.harness import segment_by_monai
from helpers.segment_bundle import (
    SHIPPED,
    blocks,
    change,
    labels_of,
    make_bundle,
    make_rounding_bundle,
    read,
    rotation,
    save,
    segment,
)
from perforated_monai.inference.segment import Segmenter, segment_volume

ORIENTATIONS = [
    (order, signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def affine_of(order, signs, degrees=0.0, spacing=(1.0, 1.0, 1.0)) -> np.ndarray:
    affine = np.eye(4)
    turn = np.zeros((3, 3))
    for axis, (to, sign) in enumerate(zip(order, signs, strict=True)):
        turn[to, axis] = sign
    affine[:3, :3] = rotation(degrees) @ turn @ np.diag(spacing)
    affine[:3, 3] = (-31.5, 12.25, 7.0)
    return affine


def monai_masks(bundle: Path, source: Path, out: Path, **changes) -> dict[str, np.ndarray]:
    """What ``python -m monai.bundle run`` writes, by file name."""
    segment_by_monai(bundle, source, out, handlers=[], **changes)
    return {path.name: labels_of(path) for path in sorted(out.glob("*.nii.gz"))}


@pytest.fixture(scope="module")
def rounding(tmp_path_factory) -> Segmenter:
    bundle = make_rounding_bundle(tmp_path_factory.mktemp("rounding") / "bundle")
    return Segmenter(bundle, device="cpu")


def test_48_orientations_oblique_and_spacing_give_the_known_mask(rounding, tmp_path):
    """Through files: affine equal field by field, every voxel right (Dice 1.0)."""
    values = blocks()
    for k, (order, signs) in enumerate(ORIENTATIONS):
        degrees, spacing = ((0, (1, 1, 1)), (17, (0.8, 1.1, 2.5)))[k % 2]
        save(tmp_path / "in" / f"{k:02d}.nii", values, affine_of(order, signs, degrees, spacing))
    summary = segment(tmp_path / "in", tmp_path / "out", rounding)
    assert summary.exit_code == 0 and len(summary.rows) == 48
    for k in range(48):
        scan = nib.load(tmp_path / "in" / f"{k:02d}.nii")
        mask = nib.load(tmp_path / "out" / f"{k:02d}_seg.nii.gz")
        assert np.array_equal(np.asarray(mask.dataobj), np.round(values))
        assert mask.get_data_dtype() == np.uint8
        assert np.array_equal(mask.affine, scan.affine)
        assert np.array_equal(mask.get_qform(), scan.get_qform())
        for code in ("sform_code", "qform_code"):
            assert mask.header[code] == scan.header[code]


@pytest.mark.parametrize("degrees", [0, 23])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.3, 2.0)])
def test_every_orientation_oblique_and_spacing_as_a_library(rounding, degrees, spacing):
    values = blocks((9, 8, 7))
    for order, signs in ORIENTATIONS:
        found = rounding(values, affine_of(order, signs, degrees, spacing))
        assert np.array_equal(found.labels, np.round(values)), (order, signs)


def test_masks_are_those_of_monai_bundle_run(tmp_path):
    """With resampling, every kind of axes, and more windows than one."""
    bundle = make_bundle(tmp_path / "bundle")
    rng = np.random.default_rng(0)
    for k, (degrees, spacing) in enumerate(
        [(0, (1, 1, 1)), (0, (0.8, 1.2, 1)), (11, (1.5, 1, 0.9))]
    ):
        order, signs = ORIENTATIONS[7 * k + 3]
        values = rng.normal(100, 20, (21, 18, 25)).astype(np.int16)
        save(tmp_path / "in" / f"{k}.nii.gz", values, affine_of(order, signs, degrees, spacing))
    summary = segment(tmp_path / "in", tmp_path / "out", bundle)
    assert summary.exit_code == 0
    expected = monai_masks(bundle, tmp_path / "in", tmp_path / "monai")
    assert len(expected) == 3
    for name, mask in expected.items():
        assert np.array_equal(labels_of(tmp_path / "out" / name), mask)
        assert len(np.unique(mask)) == 3


def test_bundle_that_inverts_logits_gives_the_masks_of_monai(tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    steps = read(bundle, "inference.json")["postprocessing"]["transforms"]
    steps[0], steps[1] = {**steps[1], "nearest_interp": False}, steps[0]
    change(bundle, "inference.json", postprocessing={"_target_": "Compose", "transforms": steps})
    values = np.random.default_rng(0).normal(100, 20, (21, 18, 25)).astype("f4")
    save(tmp_path / "in" / "a.nii.gz", values, affine_of((0, 1, 2), (1, 1, 1), 0, (0.8, 1, 1.2)))
    summary = segment(tmp_path / "in", tmp_path / "out", bundle)
    expected = monai_masks(bundle, tmp_path / "in", tmp_path / "monai")["a_seg.nii.gz"]
    assert np.array_equal(labels_of(tmp_path / "out" / "a_seg.nii.gz"), expected)
    assert any("MONAI's own path" in note for note in summary.rows[0]["notes"])


def test_thresholded_channels_give_the_masks_of_monai(tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    steps = read(bundle, "inference.json")["postprocessing"]["transforms"]
    steps[:1] = [
        {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
        {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5},
    ]
    change(bundle, "inference.json", postprocessing={"_target_": "Compose", "transforms": steps})
    values = np.random.default_rng(0).normal(100, 20, (21, 18, 25)).astype("f4")
    save(tmp_path / "in" / "a.nii.gz", values, affine_of((1, 0, 2), (1, -1, 1)))
    summary = segment(tmp_path / "in", tmp_path / "out", bundle)
    expected = monai_masks(bundle, tmp_path / "in", tmp_path / "monai")["a_seg.nii.gz"]
    found = labels_of(tmp_path / "out" / "a_seg.nii.gz")
    assert found.shape == (21, 18, 25, 3) and np.array_equal(found, expected)
    assert summary.rows[0]["notes"] == []
    assert summary.rows[0]["volume_ml_background"] == pytest.approx(
        found[..., 0].sum() / 1000, abs=1e-4
    )


def test_library_gives_the_mask_of_the_command(tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    values = np.random.default_rng(0).normal(100, 20, (18, 17, 20)).astype("f4")
    affine = affine_of((2, 0, 1), (-1, 1, 1))
    save(tmp_path / "in" / "a.nii.gz", values, affine)
    segment(tmp_path / "in", tmp_path / "out", bundle)
    found = segment_volume(values, affine, bundle)
    assert np.array_equal(found.labels, labels_of(tmp_path / "out" / "a_seg.nii.gz"))
    assert 0 < found.confidence.lowest_decile <= found.confidence.mean <= 1


def test_committed_bundle_gives_the_masks_of_monai_on_real_volumes(tmp_path, hippocampus):
    if not (SHIPPED / "models" / "model.pt").is_file():
        pytest.skip("no weights: bundles/hippocampus_mri_dendritic/models/model.pt is not there")
    scans = sorted((hippocampus / "imagesTr").glob("*.nii.gz"))[:3]
    (tmp_path / "in").mkdir()
    for scan in scans:
        (tmp_path / "in" / scan.name).symlink_to(scan)
    summary = segment(tmp_path / "in", tmp_path / "out", SHIPPED)
    assert summary.exit_code == 0 and all(row["notes"] == [] for row in summary.rows)
    for name, mask in monai_masks(SHIPPED, tmp_path / "in", tmp_path / "monai").items():
        found = labels_of(tmp_path / "out" / name)
        assert np.array_equal(found, mask)
        truth = labels_of(hippocampus / "labelsTr" / name.replace("_seg", ""))
        assert 2 * np.sum((found > 0) & (truth > 0)) / (np.sum(found > 0) + np.sum(truth > 0)) > 0.7
