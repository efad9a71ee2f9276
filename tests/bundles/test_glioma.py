"""The glioma bundle on phantoms with thick, padded slices: train, grow, export, segment."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from benchmarks import glioma_table
from helpers.harness import CPU, history, initialised, labelled_phantoms, segment_by_monai
from perforated_monai import build_network
from perforated_monai.data.manifest import load_manifest
from perforated_monai.export.into_bundle import export_run
from perforated_monai.inference.segment import Options, Segmenter, segment_folder

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "bundles" / "glioma_t1c_mri_dendritic"
TINY = {
    "base_network_def::channels": [4, 4, 8, 8, 8],
    "roi_size": [48, 48, 16],  # distal dendrites need three voxels an axis at the coarsest level
    "learning_rate": 0.01,
    "epochs": 5,
    "val_interval": 1,
    "lr_cycle_epochs": 5,
    "device": CPU,
    "train::deterministic_transforms::2::spatial_size": [64, 64, -1],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "phantoms"
    return labelled_phantoms(folder, 6, "glioma", (64, 64, 20))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the shipped configs that grew."""
    out = tmp_path_factory.mktemp("run") / "run"
    initialised(BUNDLE, ["train.json", "dendrites.yaml"], data, out, **TINY).run()
    return out


@pytest.fixture(scope="module")
def bundle(run: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundle with the network of the run."""
    copy = Path(shutil.copytree(BUNDLE, tmp_path_factory.mktemp("bundle") / BUNDLE.name))
    export_run(run, copy, volumes=data, formats=[])
    return copy


def test_it_grows_distal_and_apical_dendrites_with_strides_that_differ_by_axis(run, bundle) -> None:
    events = history(run)
    assert [e["sets"] for e in events if e["event"] == "grow"] == [1]
    epochs = [e for e in events if e["event"] == "epoch"]
    assert epochs[-1]["loss"] < epochs[0]["loss"]
    record = json.loads((bundle / "models" / "network.json").read_text())
    assert {entry["kind"] for entry in record["dendrites"].values()} == {"distal", "apical"}
    assert record["base"]["strides"] == [[2, 2, 1], [2, 2, 2], [2, 2, 2], [2, 2, 1]]


def test_masks_are_on_the_input_grid_and_those_of_monai(bundle, data, tmp_path) -> None:
    """Slices are resized for the network and the mask comes back to the scan's own size."""
    scans = tmp_path / "scans"
    scans.mkdir()
    files = sorted((data / "imagesTr").iterdir())[:2]
    for file in files:
        shutil.copy(file, scans)
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    metadata["segment"] |= {"training_ranges": None, "phantom_weights": False}
    (bundle / "configs" / "metadata.json").write_text(json.dumps(metadata))
    segmenter = Segmenter(bundle, device="cpu")
    summary = segment_folder(scans, tmp_path / "ours", segmenter, Options(progress=False))
    assert summary.exit_code == 0
    segment_by_monai(bundle, scans, tmp_path / "monai")
    for scan in files:
        name = scan.name.replace(".nii.gz", "_seg.nii.gz")
        mask, other = (nib.load(tmp_path / where / name) for where in ("ours", "monai"))
        labels = np.asarray(mask.dataobj)
        assert labels.dtype == np.uint8 and labels.shape == nib.load(scan).shape
        assert set(np.unique(labels)) <= {0, 1}
        assert np.array_equal(labels, np.asarray(other.dataobj))


def test_the_patients_of_the_manifest_are_on_one_side() -> None:
    manifest = load_manifest(BUNDLE / "configs" / "glioma_t1c.json")
    assert len(manifest.cases) == 30 and len(set(manifest.patients.values())) == 22
    assert manifest.test == []
    for patient in set(manifest.patients.values()):
        folds = {
            k for k, ids in enumerate(manifest.folds) for c in ids if c.split("_")[1] == patient
        }
        assert len(folds) == 1


def test_training_and_inference_prepare_alike() -> None:
    """What differs would shift the network's input: sizes of slices, and the normalisation."""
    train = json.loads((BUNDLE / "configs/train.json").read_text())["train"]
    inference = json.loads((BUNDLE / "configs/inference.json").read_text())
    found = {t["_target_"]: t for t in inference["preprocessing"]["transforms"]}
    for step in train["deterministic_transforms"]:
        if step["_target_"] in ("Resized", "NormalizeIntensityd", "Orientationd"):
            for key in ("spatial_size", "nonzero", "axcodes"):
                assert step.get(key) == found[step["_target_"]].get(key)
    assert "Spacingd" not in found  # the headers' spacing is not the true one


def test_the_crop_fits_the_strides() -> None:
    config = ConfigParser(ConfigParser.load_config_file(str(BUNDLE / "configs/train.json")))
    network = config.get_parsed_content("base_network_def").eval()
    crop = torch.zeros(1, 1, *config["roi_size"])
    assert network(crop).shape == (1, 2, *config["roi_size"])


def test_the_committed_weights_are_small_and_what_they_say() -> None:
    model = BUNDLE / "models" / "model.pt"
    assert model.stat().st_size < 4_000_000
    record = json.loads((BUNDLE / "models" / "network.json").read_text())
    parameters = sum(p.numel() for p in build_network(record).parameters())
    assert parameters == record["parameters"]["total"]
    first = (BUNDLE / "docs" / "README.md").read_text().splitlines()[:2]
    assert all(word in " ".join(first) for word in ("Rough masks", "spacing", "nothing clinical"))


def test_the_table_counts_patients_once_and_tumours_by_size() -> None:
    manifest = load_manifest(BUNDLE / "configs" / "glioma_t1c.json")
    dice = {"base": {"glioma_p01_pre": 0.4, "glioma_p01_post": 0.6, "glioma_g01": 0.1}}
    sizes = {"glioma_p01_pre": 160, "glioma_p01_post": 9000, "glioma_g01": 2000}
    assert sorted(glioma_table.of_patients(dice["base"], manifest)) == [0.1, 0.5]
    row = glioma_table.rows(dice, sizes, manifest)[-1]
    assert row.startswith("| base | 2 | 0.300 (0.000 to 1.000) | 0.300 |")
    assert [cell.split(" (")[0].strip() for cell in row.split("|")[5:8]] == [
        "1 of 1",
        "0 of 1",
        "1 of 1",
    ]
    assert glioma_table.wilson(0, 10)[0] == 0 and 0.25 < glioma_table.wilson(0, 10)[1] < 0.35
