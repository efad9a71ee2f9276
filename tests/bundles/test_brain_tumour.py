"""Brain tumour on four-channel phantoms, end to end: train, grow, export, segment."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from helpers.harness import CPU, GROW, history, initialised, labelled_phantoms, segment_by_monai
from perforated_monai import UserError, build_network
from perforated_monai.commands.main import main
from perforated_monai.export.into_bundle import export_run
from perforated_monai.inference.segment import Options, Segmenter, segment_folder

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "bundles" / "brain_tumor_mri_dendritic"
TINY = {
    "base_network_def::channels": [4, 8],
    "base_network_def::strides": [2],
    "base_network_def::num_res_units": 1,
    "roi_size": [24, 24, 24],
    "learning_rate": 0.02,
    "device": CPU,
}
VALUES = {1: "edema", 2: "non_enhancing_tumour", 3: "enhancing_tumour"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten tumour phantoms of 24 voxels a side."""
    folder = tmp_path_factory.mktemp("data") / "phantoms"
    return labelled_phantoms(folder, 10, "tumour", (24, 24, 24))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the shipped configs that grew."""
    out = tmp_path_factory.mktemp("run") / "run"
    files = ["train.json", "dendrites.yaml"]
    initialised(BUNDLE, files, data, out, **(TINY | GROW | {"epochs": 6})).run()
    return out


@pytest.fixture(scope="module")
def bundle(run: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundle with the network of the run, for windows of 24 voxels."""
    copy = Path(shutil.copytree(BUNDLE, tmp_path_factory.mktemp("bundle") / BUNDLE.name))
    smaller(copy)
    export_run(run, copy, volumes=data)
    return copy


def smaller(bundle: Path) -> None:
    for name in ("inference.json", "metadata.json"):
        file = bundle / "configs" / name
        text = json.dumps(json.loads(file.read_text())).replace("[96, 96, 96]", "[24, 24, 24]")
        file.write_text(text)


def test_it_trains_and_grows_with_dice_of_three_regions(run: Path) -> None:
    events = history(run)
    epochs = [e for e in events if e["event"] == "epoch"]
    assert all(len(e["dice_per_class"]) == 3 for e in epochs)
    assert [e["sets"] for e in events if e["event"] == "grow"]
    assert epochs[-1]["loss"] < epochs[0]["loss"]
    assert 0 < max(e["dice"] for e in epochs) <= 1


def test_the_export_grew_and_is_marked_as_phantom_weights(run: Path, bundle: Path) -> None:
    record = json.loads((bundle / "models" / "network.json").read_text())
    best = torch.load(run / "checkpoints" / "best.pt", weights_only=True)
    assert record["dendrites"] and best["growth"]["sets"] > 0
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata["segment"]["phantom_weights"] is True
    regions = [k for k in metadata["eval_metrics"] if k != "mean_dice"]
    assert regions == ["dice_whole_tumour", "dice_tumour_core", "dice_enhancing_tumour"]
    values = [metadata["eval_metrics"][k] for k in regions]
    assert values == [round(v, 4) for v in best["dice_per_class"]]


def test_segment_refuses_phantom_weights(bundle: Path, data: Path, tmp_path: Path, capsys) -> None:
    words = ["segment", str(data / "imagesTr"), str(tmp_path / "masks"), "--bundle", str(bundle)]
    assert main([*words, "--device", "cpu"]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "synthetic phantoms, not for patients" in said and "--allow-phantom-weights" in said
    assert not (tmp_path / "masks").exists()
    with pytest.raises(UserError, match="not for patients"):
        Segmenter(bundle, device="cpu")
    assert main([*words, "--device", "cpu", "--allow-phantom-weights"]) == 0
    with (tmp_path / "masks" / "cases.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 10
    assert all(row["notes"].count("synthetic phantoms, not for patients") == 1 for row in rows)


def test_masks_are_label_maps_on_the_input_grid_and_those_of_monai(
    bundle: Path, data: Path, tmp_path: Path
) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    for file in sorted((data / "imagesTr").iterdir())[:2]:
        shutil.copy(file, scans)
    segmenter = Segmenter(bundle, device="cpu", allow_phantom_weights=True)
    summary = segment_folder(scans, tmp_path / "ours", segmenter, Options(progress=False))
    assert summary.exit_code == 0
    segment_by_monai(bundle, scans, tmp_path / "monai")
    found = set()
    for row, scan in zip(summary.rows, sorted(scans.iterdir()), strict=True):
        mask = nib.load(tmp_path / "ours" / scan.name.replace(".nii.gz", "_seg.nii.gz"))
        other = nib.load(tmp_path / "monai" / scan.name.replace(".nii.gz", "_seg.nii.gz"))
        labels = np.asarray(mask.dataobj)
        assert labels.dtype == np.uint8 and labels.shape == (24, 24, 24)
        assert np.allclose(mask.affine, nib.load(scan).affine)
        assert np.array_equal(labels, np.asarray(other.dataobj))
        assert np.asarray(other.dataobj).dtype == np.uint8
        for value, name in VALUES.items():
            volume = float((labels == value).sum()) / 1000
            assert row[f"volume_ml_{name}"] == pytest.approx(volume, abs=1e-4)
        found |= set(np.unique(labels))
    assert 0 in found and found <= {0, 1, 2, 3} and len(found) > 1


def test_a_run_on_patient_data_takes_the_mark_away(run: Path, data: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(BUNDLE, tmp_path / BUNDLE.name))
    smaller(copy)
    real = Path(shutil.copytree(run, tmp_path / "run"))
    made = json.loads((real / "config.json").read_text())
    assert made["generator"]["kind"] == "tumour"
    (real / "config.json").write_text(json.dumps(made | {"generator": None}))
    export_run(real, copy, volumes=data)
    metadata = json.loads((copy / "configs" / "metadata.json").read_text())
    assert "phantom_weights" not in metadata["segment"]
    Segmenter(copy, device="cpu")


@pytest.mark.parametrize(
    ("overlay", "parameters"), [(None, 4_746_918), ("compressed.yaml", 1_885_958)]
)
def test_networks_are_those_of_the_original_experiment(overlay, parameters, tmp_path) -> None:
    from monai.bundle import ConfigParser

    names = ["train.json", *([overlay] if overlay else [])]
    files = [str(BUNDLE / "configs" / name) for name in names]
    config = ConfigParser(ConfigParser.load_config_files(files))
    network = config.get_parsed_content("base_network_def")
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert config["roi_size"] == [96, 96, 96]


def test_the_committed_weights_are_small_and_marked() -> None:
    model = BUNDLE / "models" / "model.pt"
    assert model.stat().st_size < 4_000_000
    record = json.loads((BUNDLE / "models" / "network.json").read_text())
    assert (
        sum(p.numel() for p in build_network(record).parameters())
        == (record["parameters"]["total"])
    )
    assert record["trained"]["generator"]["name"] == "perforated_monai.phantom"
    metadata = json.loads((BUNDLE / "configs" / "metadata.json").read_text())
    assert metadata["segment"]["phantom_weights"] is True
    warning = "synthetic phantoms, not for patients"
    assert warning in "".join((BUNDLE / "configs/metadata.json").read_text().splitlines()[:3])
    assert warning in (BUNDLE / "docs" / "README.md").read_text().splitlines()[0]
