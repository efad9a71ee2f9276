"""The clients of a bundle, really run, each in an environment of its own.

`make test-clients` makes the environments from the package index at the first run (5 GB in
``.venv-clients``; CLIENTS_FOLDER puts them elsewhere) and uses them again.
"""

import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from helpers.client_environments import run
from helpers.harness import BUNDLE
from perforated_monai import build_network, load_weights
from perforated_monai.bundle.pack import pack_bundle
from perforated_monai.data.phantoms import make_phantoms
from perforated_monai.data.prepare import write_manifest
from perforated_monai.export.into_bundle import export_formats
from perforated_monai.inference.segment import Segmenter

pytestmark = [
    pytest.mark.clients,
    pytest.mark.timeout(3600),  # the first run downloads gigabytes
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]
NAME = BUNDLE.name


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten labelled phantoms; the masks are compared on the first image."""
    data = make_phantoms(tmp_path_factory.mktemp("volumes") / "data", cases=10)
    write_manifest(data, data / "manifest.json", "phantom")
    return data


@pytest.fixture(scope="module")
def scan(volumes: Path) -> Path:
    return sorted((volumes / "imagesTr").glob("*.nii.gz"))[0]


@pytest.fixture(scope="module")
def mask(scan: Path) -> np.ndarray:
    """What the bundle says of the scan, ``(x, y, z)``."""
    read = nib.load(scan)
    image = np.asarray(read.dataobj, np.float32)
    found = Segmenter(BUNDLE, device="cpu", allow_out_of_range=True)(image, read.affine)
    assert len(np.unique(found.labels)) == 3
    return found.labels


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundle and its larger formats."""
    folder = tmp_path_factory.mktemp("exported")
    shutil.copytree(BUNDLE, folder / NAME)
    export_formats(folder / NAME, formats=["ts", "onnx"])
    return folder


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the unpacked zip, which brings the package along."""
    folder = tmp_path_factory.mktemp("packed")
    pack_bundle(BUNDLE, folder / "bundle.zip")
    shutil.unpack_archive(folder / "bundle.zip", folder)
    return folder


@pytest.fixture(scope="module")
def committed() -> tuple[torch.Tensor, torch.Tensor]:
    """A fixed input and what the committed network makes of it."""
    record = json.loads((BUNDLE / "models/network.json").read_text())
    network = load_weights(build_network(record), BUNDLE / "models/model.pt").eval()
    x = torch.randn(2, 1, 32, 48, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return x, network(x)


def all_loaded(said: str) -> bool:
    """``monai.bundle.load`` logs "model updated: N of N variables", also when N is a part."""
    found = re.search(r"updated: (\d+) of (\d+)", said)
    return found is not None and found[1] == found[2] != "0"


@pytest.mark.parametrize("kind", ["train", "inference"])
@pytest.mark.parametrize("package", ["installed", "of the packed bundle"])
def test_monai_bundle_load(kind, package, packed, committed, tmp_path) -> None:
    if package == "installed":
        said = run("monai", "load", BUNDLE.parent, NAME, kind, tmp_path / "y.pt", cwd=tmp_path)
    else:
        words = (packed, NAME, kind, tmp_path / "y.pt")
        said = run("bare", "load", *words, cwd=tmp_path, path=packed / NAME)
        assert f"code from {packed / NAME}" in said
    assert all_loaded(said)
    found = torch.load(tmp_path / "y.pt", weights_only=True)
    torch.testing.assert_close(found, committed[1], rtol=0, atol=1e-5)


def test_monai_bundle_load_without_our_package(exported, committed, tmp_path) -> None:
    run("bare", "load", exported, NAME, "ts", tmp_path / "y.pt", cwd=tmp_path)
    found = torch.load(tmp_path / "y.pt", weights_only=True)
    torch.testing.assert_close(found, committed[1], rtol=0, atol=1e-5)


def test_create_workflow_from_a_foreign_folder(scan, mask, tmp_path) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(scan, tmp_path / "in")
    run("monai", "workflow", BUNDLE, tmp_path / "in", tmp_path / "out", cwd=Path("/"))
    (written,) = (tmp_path / "out").rglob("*.nii.gz")
    assert np.array_equal(np.asarray(nib.load(written).dataobj), mask)
    assert np.allclose(nib.load(written).affine, nib.load(scan).affine, atol=1e-4)


def test_monai_algo(volumes, tmp_path) -> None:
    """Two rounds; every variable is exchanged, and all that have gradients move."""
    words = (BUNDLE, volumes, tmp_path / "out", "configs/fixed_structure.yaml")
    found = json.loads(run("monai", "federated", *words, cwd=tmp_path).splitlines()[-1])
    assert found["moved"] == found["of"] and min(map(len, found["of"])) > 50
    assert 0 < found["dice"] <= 1


def test_monai_algo_refuses_growth_by_name(volumes, tmp_path) -> None:
    with pytest.raises(AssertionError, match=r"federated learning.*fixed_structure\.yaml"):
        run("monai", "federated", BUNDLE, volumes, tmp_path / "out", cwd=tmp_path)


def test_monai_label(scan, mask, tmp_path) -> None:
    """0.8.5: shape and affine of the input, and the same labels."""
    out = tmp_path / "label.nii.gz"
    said = run(
        "label", "label", BUNDLE, scan, out, cwd=tmp_path, path=BUNDLE.parents[1] / "scripts"
    )
    written, read = nib.load(out), nib.load(scan)
    assert written.shape == read.shape and np.allclose(written.affine, read.affine, atol=1e-4)
    assert (np.asarray(written.dataobj) == mask).mean() > 0.9999
    assert {"anterior", "posterior"} <= {n.split()[0].lower() for n in labels_of(said)}


def labels_of(said: str) -> list[str]:
    return list(json.loads(said.splitlines()[-1])["labels"])


def test_monai_deploy(exported, scan, mask, tmp_path) -> None:
    """4.0.0 on the CPU: the operator reads model.ts alone; no package of ours is there."""
    (tmp_path / "models/model").mkdir(parents=True)
    shutil.copy(exported / NAME / "models/model.ts", tmp_path / "models/model/model.ts")
    folder = str(tmp_path / "models")
    words = (scan, tmp_path / "pred.npy")
    run("deploy", "deploy", *words, cwd=tmp_path, HOLOSCAN_MODEL_PATH=folder)
    found = np.load(tmp_path / "pred.npy")  # (z, y, x), as Deploy's writers take it
    assert found.dtype == np.uint8
    assert (found.transpose(2, 1, 0) == mask).mean() > 0.9999


def test_onnx_runtime_and_openvino(exported, committed, tmp_path) -> None:
    x, expected = committed
    np.save(tmp_path / "x.npy", x.numpy())
    words = (exported / NAME / "models/model.onnx", tmp_path / "x.npy", tmp_path / "y.npz")
    run("runtimes", "runtimes", *words, cwd=tmp_path)
    found = np.load(tmp_path / "y.npz")
    for name in ("onnxruntime", "openvino"):
        difference = np.abs(found[name] - expected.numpy()).max()
        assert difference < 1e-4 * float(expected.abs().max()), name
        assert (found[name].argmax(1) == expected.argmax(1).numpy()).mean() > 0.9999


def test_hugging_face_card(tmp_path) -> None:
    found = json.loads(run("hub", "hub", BUNDLE, tmp_path, cwd=tmp_path).splitlines()[-1])
    assert found["data"]["license"] == "apache-2.0"
    assert found["data"]["library_name"] == "monai"
    assert found["start"] == "# Title"  # no front matter of its own in the way
