"""Bundles of strangers, in the styles of MONAI's model zoo, with tiny networks and volumes.

Each style keeps what makes its original hard: `spleen` (UNet with batch normalisation, Novograd,
AMP, no schedule, a macro), `brats` (SegResNet, four channels, cosine schedule, several metrics, a
data list), `prostate` (YAML, code of its own in `scripts`, a cache inside the bundle, `training` in
place of `run`) and `swin` (SwinUNETR with gradient checkpointing, one window size).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigWorkflow

from helpers.foreign_parts import (
    FROM_ENGINE,
    crop,
    dice_metric,
    inference_config,
    save_volume,
    scaled,
    softmax,
    train_config,
    write_bundle,
)
from helpers.harness import CPU, history, initialised
from perforated_monai.bundle.overlay.make import Choices, make_overlay

UNET = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [4, 8],
    "strides": [2],
    "num_res_units": 1,
    "norm": "batch",
}
# Growth in a few epochs of real training, whatever the score does.
FAST = {
    "dendrites::switch": "fixed",
    "dendrites::patience": 2,
    "dendrites::improvement_threshold": [0.0],
}
OWN_CODE = '''"""Code of the bundle's own."""

from monai.transforms import MapTransform


class HalfBrightnessd(MapTransform):
    def __call__(self, data):
        data = dict(data)
        for key in self.key_iterator(data):
            data[key] = data[key] * 0.5
        return data
'''


def write_cases(
    folder: Path, channels: int = 1, values: Sequence[int] = (1,), cases: int = 5, size: int = 24
) -> Path:
    """Volumes with nested bright ellipsoids in noise, and their labels, in MSD layout.

    ``values`` are the labels from the outer shell to the core.
    """
    for case in range(cases):
        rng = np.random.default_rng(case)
        grid = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"))
        centre = rng.uniform(size * 0.4, size * 0.6, 3)[:, None, None, None]
        radius = rng.uniform(size * 0.2, size * 0.3, 3)[:, None, None, None]
        distance = (((grid - centre) / radius) ** 2).sum(0)
        label = np.zeros(distance.shape, "u1")
        for depth, value in enumerate(values):
            label[distance < 1 - depth / len(values)] = value
        image = np.maximum(1.2 - distance, 0) + (label > 0) + rng.normal(0, 0.2, label.shape)
        for channel in range(channels):
            scaled = image * (1 + channel) * 30
            name = f"case_{case}" + (f"_{channel}" if channels > 1 else "")
            save_volume(folder / "imagesTr" / f"{name}.nii.gz", scaled.astype("f4"))
        save_volume(folder / "labelsTr" / f"case_{case}.nii.gz", label)
    return folder


def spleen(folder: Path, **changes: Any) -> Path:
    """As zoo/spleen_ct_segmentation."""
    before = [
        {"_target_": "LoadImaged", "keys": ["image", "label"]},
        {"_target_": "EnsureChannelFirstd", "keys": ["image", "label"]},
        {"_target_": "Orientationd", "keys": ["image", "label"], "axcodes": "RAS"},
        scaled(),
        {"_target_": "EnsureTyped", "keys": ["image", "label"]},
    ]
    train = train_config(before, [crop(16, 16, 16)], softmax(2), UNET)
    train["optimizer"] |= {"_target_": "Novograd", "lr": 0.02}
    return write_bundle(
        folder,
        train | changes,
        inference_config(before, UNET, roi=(16, 16, 16)),
        UNET,
        size=(16, 16, 16),
    )


def brats(folder: Path, **changes: Any) -> Path:
    """As zoo/brats_mri_segmentation: regions, a data list, metrics apart."""
    network = {
        "_target_": "monai.networks.nets.SegResNet",
        "blocks_down": [1, 1],
        "blocks_up": [1],
        "init_filters": 8,
        "in_channels": 4,
        "out_channels": 3,
        "dropout_prob": 0.2,
    }
    load = {"_target_": "LoadImaged", "keys": ["image", "label"]}
    normalise = {
        "_target_": "NormalizeIntensityd",
        "keys": "image",
        "nonzero": True,
        "channel_wise": True,
    }
    regions = {"_target_": "ConvertToMultiChannelBasedOnBratsClassesd", "keys": "label"}
    floats = {"_target_": "EnsureTyped", "keys": "label", "dtype": "$torch.float32"}
    crop = {
        "_target_": "RandSpatialCropd",
        "keys": ["image", "label"],
        "roi_size": [16, 16, 16],
        "random_size": False,
    }
    flip = {"_target_": "RandFlipd", "keys": ["image", "label"], "prob": 0.5, "spatial_axis": 0}
    sigmoid = [
        {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
        {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5},
    ]
    train = train_config([load, regions, floats, normalise], [crop, flip], sigmoid, network)
    train["loss"] = {"_target_": "DiceLoss", "squared_pred": True, "sigmoid": True}
    train["learning_rate"], train["epochs"] = 0.02, 3
    train["train"]["trainer"] |= {"max_epochs": "@epochs"}
    train["optimizer"] |= {"lr": "@learning_rate", "weight_decay": 1e-5}
    train["lr_scheduler"] = {
        "_target_": "torch.optim.lr_scheduler.CosineAnnealingLR",
        "optimizer": "@optimizer",
        "T_max": "@epochs",
    }
    schedule = {"_target_": "LrScheduleHandler", "lr_scheduler": "@lr_scheduler", "print_lr": True}
    train["train"]["handlers"].insert(0, schedule)
    split = {
        "_target_": "SplitDimd",
        "keys": ["pred", "label"],
        "output_postfixes": ["tc", "wt", "et"],
    }
    train["validate"]["postprocessing"] = {"_target_": "Compose", "transforms": [*sigmoid, split]}
    metrics = {"val_mean_dice": ("pred", "label")}
    metrics |= {f"val_mean_dice_{r}": (f"pred_{r}", f"label_{r}") for r in ("tc", "wt", "et")}
    dice = {name: dice_metric(*keys, background=True) for name, keys in metrics.items()}
    train["validate"]["key_metric"] = {"val_mean_dice": dice.pop("val_mean_dice")}
    train["validate"]["additional_metrics"] = dice
    train["datalist"] = "$@bundle_root + '/configs/datalist.json'"
    for part, key in (("train", "training"), ("validate", "validation")):
        train[part]["dataset"]["data"] = (
            f"$monai.data.load_decathlon_datalist(@datalist, data_list_key='{key}', "
            "base_dir=@dataset_dir)"
        )
    inference = inference_config([load, normalise], network, roi=(16, 16, 16), after=sigmoid)
    inference["postprocessing"]["transforms"].insert(3, _brats_labels())
    write_bundle(folder, train | changes, inference, network, size=(16, 16, 16))
    (folder / "configs" / "datalist.json").write_text(json.dumps(_brats_cases()))
    return folder


def prostate(folder: Path, **changes: Any) -> Path:
    """As zoo/prostate_mri_anatomy, in YAML: own code, literal interval, cache inside the bundle."""
    network = UNET | {"act": "prelu", "dropout": 0.15}
    own = {"_target_": "scripts.brightness.HalfBrightnessd", "keys": "image"}
    before = [
        {"_target_": "LoadImaged", "keys": ["image", "label"]},
        {"_target_": "EnsureChannelFirstd", "keys": ["image", "label"]},
        own,
        {"_target_": "NormalizeIntensityd", "keys": "image"},
        {"_target_": "EnsureTyped", "keys": ["image", "label"]},
    ]
    train = train_config(before, [crop(16, 16, 16)], softmax(2), network)
    train["optimizer"] |= {
        "_target_": "monai.optimizers.Novograd",
        "lr": 0.02,
        "amsgrad": True,
        "weight_decay": 0.001,
    }
    train["train"]["dataset"] |= {
        "_target_": "PersistentDataset",
        "cache_dir": "$@bundle_root + '/cache'",
    }
    train["train"]["handlers"][0]["interval"] = 1
    train["training"] = train.pop("run")
    hausdorff = {
        "_target_": "HausdorffDistance",
        "include_background": False,
        "output_transform": f"{FROM_ENGINE}(['pred', 'label'])",
    }
    train["validate"]["additional_metrics"] = {"val_hausdorff": hausdorff}
    inference = inference_config(before, network, roi=(16, 16, 16))
    write_bundle(folder, train | changes, inference, network, size=(16, 16, 16), suffix=".yaml")
    (folder / "scripts").mkdir()
    (folder / "scripts" / "__init__.py").touch()
    (folder / "scripts" / "brightness.py").write_text(OWN_CODE)
    return folder


def swin(folder: Path, **changes: Any) -> Path:
    """As zoo/swin_unetr_btcv_segmentation: checkpointing in training, none in inference."""
    network = {
        "_target_": "SwinUNETR",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 2,
        "feature_size": 12,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 1, 1, 1],
        "window_size": 4,
        "use_checkpoint": True,
    }
    before = [
        {"_target_": "LoadImaged", "keys": ["image", "label"]},
        {"_target_": "EnsureChannelFirstd", "keys": ["image", "label"]},
        scaled(),
        {
            "_target_": "SpatialPadd",
            "keys": ["image", "label"],
            "spatial_size": [64, 32, 32],
        },
    ]
    train = train_config(before, [crop(64, 32, 32)], softmax(2), network)
    train["validate"]["inferer"]["roi_size"] = [64, 32, 32]
    train["optimizer"]["lr"] = 0.002
    inference = inference_config(before, network | {"use_checkpoint": False}, roi=(64, 32, 32))
    return write_bundle(folder, train | changes, inference, network, size=(64, 32, 32))


def train_with_overlay(
    bundle: Path, data: Path, out: Path, choices: Choices | None = None, **changes: Any
) -> ConfigWorkflow:
    """Overlay a bundle and run it by MONAI's own workflow, as ``monai.bundle run`` does."""
    file = out.parent / f"{out.name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(make_overlay(bundle, choices))
    return run_overlay(bundle, data, out, file, **changes)


def run_overlay(bundle: Path, data: Path, out: Path, file: Path, **changes: Any) -> ConfigWorkflow:
    """Initialise, run and finalise a bundle with an overlay that was written before."""
    config = next((bundle / "configs").glob("train.*"))
    run_id = "training" if "training:" in config.read_text() else "run"
    overrides = {"device": CPU, "train::trainer::max_epochs": 5, **FAST, **changes}
    made = initialised(bundle, [config, file.resolve()], data, out, run_id=run_id, **overrides)
    made.run()
    made.finalize()
    return made


def grown_sets(out: Path) -> list[int]:
    """Dendrite sets after each growth of a run."""
    return [event["sets"] for event in history(out) if event["event"] == "grow"]


def tree_hash(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder; Python's caches do not count."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and "__pycache__" not in p.parts)
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _brats_labels() -> dict[str, Any]:
    return {
        "_target_": "Lambdad",
        "keys": "pred",
        "func": "$lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, "
        "torch.where(x[[1]] > 0, 2, 0)))",
    }


def _brats_cases(cases: int = 5) -> dict[str, Any]:
    found = [
        {
            "image": [f"imagesTr/case_{i}_{c}.nii.gz" for c in range(4)],
            "label": f"labelsTr/case_{i}.nii.gz",
        }
        for i in range(cases)
    ]
    return {"training": found[:-2], "validation": found[-2:]}
