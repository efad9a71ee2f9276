"""A tiny bundle made from the shipped configs, small volumes, and a network whose mask is known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from torch import nn

from perforated_monai import build_network

SHIPPED = Path(__file__).resolve().parents[1] / "bundles" / "hippocampus_mri_dendritic"
TINY = {
    "name": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 3,
    "channels": [4, 8],
    "strides": [2],
    "num_res_units": 0,
}
# One layer without a stride or a norm: the mask is a threshold of the input, whatever the window.
POINTWISE = TINY | {"channels": [3, 3], "strides": [1], "norm": None, "act": None}


def make_bundle(folder: Path, roi: tuple[int, int, int] = (16, 16, 16), **base: object) -> Path:
    """A bundle with the shipped configs, a tiny seeded UNet and no training ranges."""
    shutil.copytree(SHIPPED / "configs", folder / "configs")
    (folder / "models").mkdir()
    spec = {"format": 1, "base": TINY | base, "dendrites": {}}
    torch.manual_seed(0)
    network = build_network(spec)
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    definition = {"_target_": "perforated_monai.build_network", "spec": spec}
    change(folder, "inference.json", network_def=definition, val_roi_size=list(roi))
    segment = read(folder, "metadata.json")["segment"] | {"training_ranges": None}
    change(folder, "metadata.json", segment=segment)
    return folder


def make_threshold_bundle(folder: Path, outputs: int = 3) -> Path:
    """A bundle that labels every voxel by its value: > 0.5 after normalising is 1, > 2 is 2."""
    make_bundle(folder)
    spec = {"format": 1, "base": TINY | {"out_channels": outputs}, "dendrites": {}}
    return folder


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / "configs" / name).read_text())


def change(folder: Path, name: str, **changes: object) -> None:
    """Change keys of a config."""
    content = read(folder, name) | changes
    (folder / "configs" / name).write_text(json.dumps(content))
