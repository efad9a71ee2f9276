"""Bundles made from the shipped configs with small networks, and small volumes to segment."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from helpers.tiny import spec_of
from perforated_monai import build_network
from perforated_monai.inference.segment import Options, Segmenter, Summary, segment_folder

SHIPPED = Path(__file__).resolve().parents[2] / "bundles" / "hippocampus_mri_dendritic"
# Linear and voxel by voxel, so that its weights can be set by hand.
_POINTWISE = {
    "channels": [1, 1],
    "strides": [1],
    "kernel_size": 1,
    "up_kernel_size": 1,
    "norm": None,
    "act": None,
}


def make_bundle(folder: Path, roi: tuple[int, ...] = (16, 16, 16), **base: Any) -> Path:
    """The shipped configs with a tiny seeded UNet and without training ranges."""
    shutil.copytree(SHIPPED / "configs", folder / "configs")
    (folder / "models").mkdir()
    spec = spec_of(**({"num_res_units": 0} | base))
    torch.manual_seed(0)
    save_weights(folder, build_network(spec).state_dict())
    definition = {"_target_": "perforated_monai.build_network", "spec": spec}
    change(folder, "inference.json", network_def=definition, val_roi_size=list(roi))
    segment = read(folder, "metadata.json")["segment"] | {"training_ranges": None}
    change(folder, "metadata.json", segment=segment)
    return folder


def make_rounding_bundle(folder: Path, outputs: int = 3, channels: int = 1) -> Path:
    """A bundle whose mask is known: the values of channel 0, rounded and clipped to the labels.

    Logit k of a value x is k·x − k²/2, largest for the k closest to x. Nothing is normalised or
    resampled.
    """
    make_bundle(folder, in_channels=channels, out_channels=outputs, **_POINTWISE)
    config = read(folder, "inference.json")
    steps = config["preprocessing"]["transforms"]
    steps[:] = [t for t in steps if t["_target_"] not in ("Spacingd", "NormalizeIntensityd")]
    change(folder, "inference.json", preprocessing=config["preprocessing"])
    formats = read(folder, "metadata.json")["network_data_format"]
    formats["inputs"]["image"]["num_channels"] = channels
    formats["outputs"]["pred"]["num_channels"] = outputs
    change(folder, "metadata.json", network_data_format=formats)
    spec = read(folder, "inference.json")["network_def"]["spec"]
    state = {k: torch.zeros_like(v) for k, v in build_network(spec).state_dict().items()}
    k = torch.arange(outputs, dtype=torch.float32)
    state["model.0.conv.weight"][0, 0] = 1.0
    state["model.2.conv.weight"][0] = k[:, None, None, None]
    state["model.2.conv.bias"][:] = -(k**2) / 2
    save_weights(folder, state)
    return folder


def save_weights(folder: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save(state, folder / "models" / "model.pt")


def read(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / "configs" / name).read_text())


def change(folder: Path, name: str, **changes: Any) -> None:
    """Change keys of a config."""
    (folder / "configs" / name).write_text(json.dumps(read(folder, name) | changes))


def blocks(shape: tuple[int, ...] = (14, 12, 10), seed: int = 0) -> np.ndarray:
    """Values 0, 1 and 2 in two unequal blocks, plus noise that rounding takes off again."""
    values = np.zeros(shape, np.float32)
    values[2 : shape[0] // 2, 1:-3, 2:-1] = 1
    values[shape[0] // 2 : -1, 3:-2, 1:-4] = 2
    return values + np.random.default_rng(seed).uniform(-0.3, 0.3, shape).astype("f4")


def rotation(degrees: float) -> np.ndarray:
    a, b = np.radians([degrees, degrees / 2])
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    return x @ z


def save(path: Path, values: np.ndarray, affine: np.ndarray | None = None, **header: Any) -> Path:
    """Write a NIfTI file and then change fields of its header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(values, np.eye(4) if affine is None else affine)
    image.header.set_xyzt_units("mm")
    for key, value in header.items():
        image.header[key] = value
    if header:  # without an affine nibabel leaves the header's geometry alone
        image = nib.Nifti1Image(values, None, image.header)
    nib.save(image, path)
    return path


def labels_of(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def segment(source: Path, output: Path, bundle: Path | Segmenter, **options: Any) -> Summary:
    """Segment a folder without a progress bar."""
    segmenter = bundle if isinstance(bundle, Segmenter) else Segmenter(bundle, device="cpu")
    return segment_folder(source, output, segmenter, Options(progress=False, **options))


def reasons(summary: Summary) -> dict[str, str]:
    """Failed case -> reason."""
    return {row["case"]: row["reason"] for row in summary.failed}
