"""Images of one value and labels without foreground are refused, or named in a warning."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.transforms import LoadImaged, NormalizeIntensityd

from helpers.msd import fill, image_of, label_of, save
from perforated_monai import CaseDataset, UserError, datalist
from perforated_monai.data.prepare import write_manifest
from perforated_monai.data.usable import refuse_constant


@pytest.fixture
def root(tmp_path: Path) -> Path:
    fill(tmp_path / "data")
    write_manifest(tmp_path / "data", tmp_path / "data/manifest.json", "tiny")
    return tmp_path / "data"


def empty_label(root: Path, case: str) -> None:
    save(root / f"labelsTr/{case}.nii.gz", np.zeros((4, 5, 6), np.uint8))


@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_part_without_any_foreground_is_refused(part: str, root: Path) -> None:
    manifest = root / "manifest.json"
    cases = [entry["case"] for entry in datalist(root, manifest, part)]
    for case in cases:
        empty_label(root, case)
    with pytest.raises(UserError, match=f"all {len(cases)} labels of the part {part}.*{cases[0]}"):
        datalist(root, manifest, part)


def test_some_labels_without_foreground_are_named(root: Path) -> None:
    manifest = root / "manifest.json"
    cases = [entry["case"] for entry in datalist(root, manifest, "train")]
    empty_label(root, cases[1])
    with pytest.warns(UserWarning, match=f"1 of {len(cases)} labels .*train.*{cases[1]}"):
        assert len(datalist(root, manifest, "train")) == len(cases)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        datalist(root, manifest, "validation")


def test_a_constant_image_is_refused_by_name_when_it_is_read(tmp_path: Path) -> None:
    for name, voxels in (("good", image_of(0)), ("flat", np.full((4, 5, 6), 7, np.float32))):
        save(tmp_path / f"{name}.nii.gz", voxels)
        save(tmp_path / f"{name}_label.nii.gz", label_of(0))
    cases = [
        {"image": str(tmp_path / f"{n}.nii.gz"), "label": str(tmp_path / f"{n}_label.nii.gz")}
        for n in ("good", "flat")
    ]
    steps = [
        LoadImaged(["image", "label"], ensure_channel_first=True),
        NormalizeIntensityd("image"),
    ]
    for cache in (None, tmp_path / "cache"):
        data = CaseDataset(cases, steps, cache_dir=cache)
        assert data[0]["image"].shape == (1, 4, 5, 6)
        with pytest.raises(UserError, match=r"flat\.nii\.gz: the image holds one value everywhere"):
            data[1]


def test_one_channel_that_was_not_scanned_is_let_pass() -> None:
    image = torch.zeros(2, 3, 3, 3)
    image[1, 0] = 1
    refuse_constant({"image": image}, "x")
    refuse_constant({"image": "not loaded"}, "x")
    refuse_constant([1, 2], "x")
    with pytest.raises(UserError, match="x: the image holds one value"):
        refuse_constant({"image": torch.ones(2, 3, 3, 3)}, "x")
