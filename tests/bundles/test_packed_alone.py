"""Every bundle, packed and unpacked, passes the zoo's checks and runs with nothing else of ours."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from helpers.alone import BASE, run_alone
from helpers.harness import CPU, segment_by_monai
from helpers.zoo import BUNDLES, LARGEST_FILE, PHANTOM_KIND, check_metadata, each_bundle
from perforated_monai.bundle.pack import Packed, pack_bundle
from perforated_monai.bundle.verify.verify import verify
from perforated_monai.data.phantoms import make_phantoms


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> dict[str, Path]:
    """Bundle -> folder it was unpacked to; packed once."""
    found = {}
    for bundle in BUNDLES:
        folder = tmp_path_factory.mktemp("unpacked")
        packed: Packed = pack_bundle(bundle, folder / "packed.zip")
        assert not [note for note in packed.notes if "--trust" in note]
        with zipfile.ZipFile(packed.file) as archive:
            archive.extractall(folder)
        found[bundle.name] = folder / bundle.name
    return found


@pytest.fixture(scope="module")
def volumes(tmp_path_factory) -> dict[str, Path]:
    """Bundle -> folder of two volumes that it can segment."""
    return {
        name: make_phantoms(tmp_path_factory.mktemp(name) / "data", cases=2, kind=kind) / "imagesTr"
        for name, kind in PHANTOM_KIND.items()
    }


def test_there_are_bundles():
    assert len(BUNDLES) >= 1


@each_bundle
def test_the_packed_bundle_is_verified(bundle, unpacked):
    verdict = verify(unpacked[bundle.name])
    assert (verdict.findings, verdict.foreign) == ([], [])


@each_bundle
def test_the_packed_bundle_passes_the_checks_of_the_zoo(bundle, unpacked, tmp_path):
    root = unpacked[bundle.name]
    names = {path.relative_to(root).as_posix() for path in root.rglob("*")}
    assert {"LICENSE", "configs/metadata.json", "configs/inference.json"} <= names
    assert "models/model.pt" in names
    assert max(path.stat().st_size for path in root.rglob("*")) <= LARGEST_FILE
    metadata = json.loads((root / "configs/metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]
    check_metadata(root / "configs/metadata.json", tmp_path)


@each_bundle
def test_the_packed_bundle_runs_alone(bundle, unpacked, volumes, tmp_path):
    root, data = unpacked[bundle.name], volumes[bundle.name]
    required = json.loads((root / "configs/metadata.json").read_text())["required_packages_version"]
    done = run_alone(root, _inference(root, data, tmp_path / "alone"), required, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["package"] == str(root / "perforated_monai" / "__init__.py")
    assert "perforatedai" not in said["modules"]

    segment_by_monai(bundle, data, tmp_path / "here")
    masks = {path.name for path in (tmp_path / "here").rglob("*.nii.gz")}
    assert len(masks) == 2
    for name in masks:
        here, alone = (nib.load(tmp_path / part / name) for part in ("here", "alone"))
        assert np.array_equal(np.asarray(here.dataobj), np.asarray(alone.dataobj))
        assert np.array_equal(here.affine, alone.affine)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("nibabel", "nibabel is not installed here"),
        ("pytorch-ignite", "Cannot locate class or function path: 'ignite.handlers.ProgressBar'"),
        ("fire", "fire is not installed here"),
        ("tqdm", "tqdm is not installed here"),
    ],
)
def test_no_package_is_named_without_need(missing, said, unpacked, volumes, tmp_path):
    """Without any one of what required_packages_version lists inference fails, and says so."""
    name = "hippocampus_mri_dendritic"
    metadata = json.loads((unpacked[name] / "configs/metadata.json").read_text())
    required = [*BASE, *metadata["required_packages_version"]]
    assert missing in required
    kept = [package for package in required if package != missing]
    words = _inference(unpacked[name], volumes[name], tmp_path / "out")
    done = run_alone(unpacked[name], words, kept, tmp_path, base=())
    assert done.returncode != 0
    assert said in done.stderr
    assert not list(tmp_path.rglob("*.nii.gz"))


def _inference(root: Path, data: Path, out: Path) -> list[object]:
    return [
        *("run", "--config_file", root / "configs/inference.json", "--bundle_root", root),
        *("--dataset_dir", data, "--output_dir", out, "--device", CPU),
    ]
