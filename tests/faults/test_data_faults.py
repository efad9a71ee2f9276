"""Faults 16 to 27: what can go wrong with data before and while training; one test a number.

Training is the shipped `train.json` on phantoms: `workflow` reads its datalists, as a run does.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import (
    Compose,
    LoadImaged,
    RandCropByPosNegLabeld,
    ScaleIntensityd,
)

from helpers.harness import history, train, workflow
from helpers.msd import fill, image_of, label_of, save
from perforated_monai import CaseDataset, UserError, datalist
from perforated_monai.data.check import ERROR, WARNING, check_dataset
from perforated_monai.data.manifest import load_manifest
from perforated_monai.data.prepare import write_manifest

KEYS = ["image", "label"]
IMAGE, LABEL = "imagesTr/phantom_002.nii.gz", "labelsTr/phantom_002.nii.gz"


@pytest.fixture
def data(phantoms, tmp_path) -> Path:
    return shutil.copytree(phantoms, tmp_path / "data")


def rewrite(
    root: Path, file: str, change: Callable[[np.ndarray], np.ndarray], shift: float = 0
) -> None:
    """Replace a volume by a changed one, its origin moved by `shift` mm."""
    volume = nib.load(root / file)
    affine = volume.affine.copy()
    affine[0, 3] += shift
    save(root / file, change(np.asanyarray(volume.dataobj)), affine)


def refused(root: Path, out: Path, file: str, rule: str) -> None:
    """Training stops before the first epoch, naming the file; check calls the same an error."""
    with pytest.raises(Exception) as caught:
        train(root, out)
    assert _cause(caught.value) is not None, caught.value
    line = str(_cause(caught.value)).splitlines()[-1]
    assert file in line and line.endswith(".")
    assert not (out / "history.jsonl").exists() or history(out) == []
    found = [f for f in check_dataset(root).findings if f.rule == rule and f.file == file]
    assert [f.severity for f in found] == [ERROR]


def _cause(error: BaseException | None) -> UserError | None:
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


@pytest.mark.fault(16)
def test_label_out_of_range(data, tmp_path):
    rewrite(data, LABEL, lambda label: np.where(label == 2, 7, label).astype(np.uint8))
    refused(data, tmp_path / "out", LABEL, "label-values")


@pytest.mark.fault(17)
def test_image_and_label_of_another_shape(data, tmp_path):
    rewrite(data, LABEL, lambda label: label[:, :, 1:])
    refused(data, tmp_path / "out", LABEL, "pair-shape")


@pytest.mark.fault(18)
def test_affine_mismatch(data, tmp_path):
    rewrite(data, LABEL, lambda label: label, shift=1.0)
    refused(data, tmp_path / "out", LABEL, "pair-affine")


@pytest.mark.fault(19)
def test_label_that_is_not_integer(data, tmp_path):
    rewrite(data, LABEL, lambda label: label.astype(np.float32) * np.float32(0.999))
    refused(data, tmp_path / "out", LABEL, "label-integer")


@pytest.mark.fault(20)
def test_nan_in_an_image(data, tmp_path):
    """Training reads images as it goes: it stops at the case, and check finds it before."""

    def with_slab(image: np.ndarray) -> np.ndarray:
        image = image.astype(np.float32)
        image[:, :, 4:9] = np.nan
        return image

    rewrite(data, IMAGE, with_slab)
    with pytest.raises(Exception) as caught:
        train(data, tmp_path / "out", epochs=1)
    assert "phantom_002" in str(_cause(caught.value))
    found = [f for f in check_dataset(data).findings if f.rule == "finite"]
    assert [(f.file, f.severity) for f in found] == [(IMAGE, ERROR)]


@pytest.mark.fault(21)
@pytest.mark.parametrize("damage", ["flip", "cut", "cut in the last six bytes"])
def test_gzip_flip_or_truncation(damage, data, tmp_path):
    content = bytearray((data / LABEL).read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 16
    else:
        del content[-3 if "last" in damage else -200 :]
    (data / LABEL).write_bytes(content)
    refused(data, tmp_path / "out", LABEL, "whole")


@pytest.mark.fault(22)
def test_missing_path_duplicate_and_leak_are_listed_at_once(tmp_path):
    root = fill(tmp_path / "data", range(20))
    manifest = write_manifest(root, tmp_path / "manifest.json", "tiny")
    (a, *_), (b, *_) = manifest.folds[0], manifest.folds[1]
    shutil.copy(root / manifest.files(a)[0], root / manifest.files(b)[0])
    absent, unlabelled = manifest.folds[2][0], manifest.folds[3][0]
    for file in manifest.files(absent):
        (root / file).unlink()
    (root / manifest.files(unlabelled)[1]).unlink()
    with pytest.raises(UserError) as caught:
        datalist(root, manifest, "train")
    lines = str(caught.value).splitlines()
    assert absent in "".join(lines) and unlabelled in "".join(lines) and len(lines) == 3
    findings = check_dataset(root, manifest).findings
    rules = {f.rule for f in findings if f.severity == ERROR}
    assert {"missing", "unpaired", "leak", "checksum"} <= rules
    (leak,) = [f for f in findings if f.rule == "leak"]
    assert a in leak.file + leak.value and b in leak.file + leak.value


@pytest.mark.fault(22)
def test_a_case_in_two_parts_cannot_be_written_into_a_manifest(tmp_path):
    root = fill(tmp_path / "data")
    write_manifest(root, tmp_path / "manifest.json", "tiny")
    text = (tmp_path / "manifest.json").read_text()
    row = next(line for line in text.splitlines() if '"case_01"' in line)
    (tmp_path / "manifest.json").write_text(text.replace(row, f"{row}\n{row}"))
    with pytest.raises(UserError, match="the key 'case_01' twice"):
        load_manifest(tmp_path / "manifest.json")


def cached(cases: list[dict], cache: Path, high: float = 1.0) -> torch.Tensor:
    steps = [LoadImaged(KEYS, ensure_channel_first=True), ScaleIntensityd("image", maxv=high)]
    return CaseDataset(cases, steps, cache_dir=cache)[0]["image"].as_tensor()


@pytest.mark.fault(23)
def test_stale_cache(data, tmp_path, capsys):
    cases, cache = datalist(data, data / "manifest.json", "train"), tmp_path / "cache"
    first = cached(cases, cache)
    assert torch.equal(cached(cases, cache), first)
    assert torch.allclose(cached(cases, cache, high=2.0), 2 * first)
    volume = nib.load(cases[0]["image"])
    save(Path(cases[0]["image"]), np.asanyarray(volume.dataobj)[::-1], volume.affine)
    assert torch.allclose(cached(cases, cache), first.flip(1))
    assert "was changed: made again" in capsys.readouterr().out


@pytest.mark.fault(24)
@pytest.mark.parametrize("damage", ["empty", "cut", "flip"])
def test_corrupt_cache_file(damage, data, tmp_path, capsys):
    cases, cache = datalist(data, data / "manifest.json", "train"), tmp_path / "cache"
    first = cached(cases, cache)
    (file,) = cache.rglob("*.pt")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes({"empty": b"", "cut": content[:999], "flip": content}[damage])
    assert torch.equal(cached(cases, cache), first)
    assert "is damaged: made again" in capsys.readouterr().out


@pytest.mark.fault(25)
def test_empty_foreground(data, tmp_path):
    """It may be meant: check warns by name, training goes on and crops background there."""
    rewrite(data, LABEL, lambda label: np.zeros_like(label))
    found = [f for f in check_dataset(data).findings if f.rule == "label-empty"]
    assert [(f.file, f.severity) for f in found] == [(LABEL, WARNING)]
    cases = [c for c in datalist(data, data / "manifest.json", "all") if c["case"] == "phantom_002"]
    crop = RandCropByPosNegLabeld(KEYS, "label", spatial_size=[16] * 3, pos=1, neg=1, num_samples=1)
    steps = Compose([LoadImaged(KEYS, ensure_channel_first=True), crop])
    (item,) = CaseDataset(cases, steps)[(1, 0)]
    assert item["image"].shape[1:] == (16, 16, 16) and not item["label"].any()


@pytest.mark.fault(26)
def test_volume_smaller_than_the_crop(tmp_path):
    """The shipped preprocessing pads it."""
    root = tmp_path / "data"
    for case in range(10):
        save(root / f"imagesTr/case_{case:02d}.nii.gz", image_of(case, (8, 8, 8)))
        save(root / f"labelsTr/case_{case:02d}.nii.gz", label_of(case, (8, 8, 8)))
    write_manifest(root, root / "manifest.json", "small", test=False)
    made = workflow(root, tmp_path / "out", roi_size=[16, 16, 16])
    item = made.parser.get_parsed_content("train::dataset")[(1, 0)]
    assert item["image"].shape == item["label"].shape == (1, 16, 16, 16)


@pytest.mark.fault(27)
def test_wrong_number_of_channels(data, tmp_path):
    rewrite(data, IMAGE, lambda image: np.stack([image, image], -1))
    refused(data, tmp_path / "out", IMAGE, "channels")
