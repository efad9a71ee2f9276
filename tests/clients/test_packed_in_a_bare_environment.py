"""The packed zip in an environment made from nothing but what it says it needs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from helpers.client_environments import ENVIRONMENTS, python_of
from helpers.harness import BUNDLE, segment_by_monai
from perforated_monai.bundle.pack import pack_bundle
from perforated_monai.data.phantoms import make_phantoms

pytestmark = [pytest.mark.clients, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """The unpacked bundle."""
    folder = tmp_path_factory.mktemp("packed")
    pack_bundle(BUNDLE, folder / "bundle.zip")
    shutil.unpack_archive(folder / "bundle.zip", folder)
    return folder / BUNDLE.name


def test_inference_from_the_root_folder(root, tmp_path) -> None:
    metadata = json.loads((root / "configs/metadata.json").read_text())
    versions = {
        "torch": metadata["pytorch_version"],
        "monai": metadata["monai_version"],
        "numpy": metadata["numpy_version"],
        **metadata["required_packages_version"],
    }
    ENVIRONMENTS["packed"] = [f"{name}=={version}" for name, version in versions.items()]
    python = python_of("packed")
    listed = subprocess.check_output([python, "-m", "pip", "list", "--format=freeze"], text=True)
    installed = {line.split("==")[0].lower() for line in listed.splitlines()}
    assert not {n for n in installed if n.startswith("perforated")}
    assert not {"scipy", "pyyaml", "rich", "matplotlib", "torchvision"} & installed

    data = make_phantoms(tmp_path / "data", cases=2) / "imagesTr"
    words = {
        "--config_file": root / "configs/inference.json",
        "--bundle_root": root,
        "--dataset_dir": data,
        "--output_dir": tmp_path / "alone",
        "--device": "$torch.device('cpu')",
    }
    done = subprocess.run(
        [python, "-m", "monai.bundle", "run", *(str(w) for pair in words.items() for w in pair)],
        cwd="/",
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert list((root / "perforated_monai" / "networks" / "__pycache__").glob("build.*.pyc"))

    segment_by_monai(BUNDLE, data, tmp_path / "here")
    masks = sorted(path.name for path in (tmp_path / "here").iterdir())
    assert len(masks) == 2
    for name in masks:
        ours, alone = (nib.load(tmp_path / part / name) for part in ("here", "alone"))
        agreement = (np.asarray(ours.dataobj) == np.asarray(alone.dataobj)).mean()
        assert agreement > 0.9999  # another build of torch may round otherwise
        assert np.array_equal(ours.affine, alone.affine)
