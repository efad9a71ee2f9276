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

import nibabel as nib
import numpy as np
import torch
import yaml
from monai.bundle import ConfigWorkflow
from monai.networks import nets

from helpers.harness import CPU, history, initialised
from perforated_monai.bundle.overlay.make import Choices, make_overlay

FROM_ENGINE = "$monai.handlers.from_engine"
DEVICE = "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')"
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
            _save(folder / "imagesTr" / f"{name}.nii.gz", scaled.astype("f4"))
        _save(folder / "labelsTr" / f"case_{case}.nii.gz", label)
    return folder


def spleen(folder: Path, **changes: Any) -> Path:
    """As zoo/spleen_ct_segmentation."""
    before = [
        {"_target_": "LoadImaged", "keys": ["image", "label"]},
        {"_target_": "EnsureChannelFirstd", "keys": ["image", "label"]},
        {"_target_": "Orientationd", "keys": ["image", "label"], "axcodes": "RAS"},
        _scaled(),
        {"_target_": "EnsureTyped", "keys": ["image", "label"]},
    ]
    train = _train(before, [_crop(16, 16, 16)], _softmax(2), UNET)
    train["optimizer"] |= {"_target_": "Novograd", "lr": 0.02}
    return _write(
        folder, train | changes, _inference(before, UNET, roi=(16, 16, 16)), UNET, size=(16, 16, 16)
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
    train = _train([load, regions, floats, normalise], [crop, flip], sigmoid, network)
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
    dice = {name: _dice(*keys, background=True) for name, keys in metrics.items()}
    train["validate"]["key_metric"] = {"val_mean_dice": dice.pop("val_mean_dice")}
    train["validate"]["additional_metrics"] = dice
    train["datalist"] = "$@bundle_root + '/configs/datalist.json'"
    for part, key in (("train", "training"), ("validate", "validation")):
        train[part]["dataset"]["data"] = (
            f"$monai.data.load_decathlon_datalist(@datalist, data_list_key='{key}', "
            "base_dir=@dataset_dir)"
        )
    inference = _inference([load, normalise], network, roi=(16, 16, 16), after=sigmoid)
    inference["postprocessing"]["transforms"].insert(3, _brats_labels())
    _write(folder, train | changes, inference, network, size=(16, 16, 16))
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
    train = _train(before, [_crop(16, 16, 16)], _softmax(2), network)
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
    inference = _inference(before, network, roi=(16, 16, 16))
    _write(folder, train | changes, inference, network, size=(16, 16, 16), suffix=".yaml")
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
        _scaled(),
        {
            "_target_": "SpatialPadd",
            "keys": ["image", "label"],
            "spatial_size": [64, 32, 32],
        },
    ]
    train = _train(before, [_crop(64, 32, 32)], _softmax(2), network)
    train["validate"]["inferer"]["roi_size"] = [64, 32, 32]
    train["optimizer"]["lr"] = 0.002
    inference = _inference(before, network | {"use_checkpoint": False}, roi=(64, 32, 32))
    return _write(folder, train | changes, inference, network, size=(64, 32, 32))


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


# -- parts of the configs --------------------------------------------------------------------


def _train(
    before: Sequence[Any], random: Sequence[Any], after: Sequence[Any], network: dict[str, Any]
) -> dict[str, Any]:
    log = {"_target_": "TensorBoardStatsHandler", "log_dir": "@output_dir"}
    loss = {"tag_name": "train_loss", "output_transform": f"{FROM_ENGINE}(['loss'], first=True)"}
    return {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "ckpt_dir": "$@bundle_root + '/models'",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_dir": "/workspace/data/Task09_Spleen",
        "images": "$list(sorted(glob.glob(@dataset_dir + '/imagesTr/*.nii.gz')))",
        "labels": "$list(sorted(glob.glob(@dataset_dir + '/labelsTr/*.nii.gz')))",
        "val_interval": 1,
        "device": DEVICE,
        "network_def": dict(network),
        "network": "$@network_def.to(@device)",
        "loss": {"_target_": "DiceCELoss", "to_onehot_y": True, "softmax": True, "batch": True},
        "optimizer": {
            "_target_": "torch.optim.Adam",
            "params": "$@network.parameters()",
            "lr": 0.01,
        },
        "train": {
            "deterministic_transforms": list(before),
            "random_transforms": list(random),
            "preprocessing": {
                "_target_": "Compose",
                "transforms": "$@train#deterministic_transforms + @train#random_transforms",
            },
            "dataset": {
                "_target_": "CacheDataset",
                "data": "$[{'image': i, 'label': l} for i, l in zip(@images[:-2], @labels[:-2])]",
                "transform": "@train#preprocessing",
            },
            "dataloader": {
                "_target_": "DataLoader",
                "dataset": "@train#dataset",
                "batch_size": 1,
                "shuffle": True,
                "num_workers": 0,
            },
            "inferer": {"_target_": "SimpleInferer"},
            "postprocessing": {"_target_": "Compose", "transforms": list(after)},
            "handlers": [
                {
                    "_target_": "ValidationHandler",
                    "validator": "@validate#evaluator",
                    "epoch_level": True,
                    "interval": "@val_interval",
                },
                {"_target_": "StatsHandler", **loss},
                {**log, **loss},
            ],
            "key_metric": {"train_mean_dice": _dice()},
            "trainer": {
                "_target_": "SupervisedTrainer",
                "max_epochs": 300,
                "device": "@device",
                "train_data_loader": "@train#dataloader",
                "network": "@network",
                "loss_function": "@loss",
                "optimizer": "@optimizer",
                "inferer": "@train#inferer",
                "postprocessing": "@train#postprocessing",
                "key_train_metric": "@train#key_metric",
                "train_handlers": "@train#handlers",
                "amp": True,
            },
        },
        "validate": {
            "preprocessing": {
                "_target_": "Compose",
                "transforms": "%train#deterministic_transforms",
            },
            "dataset": {
                "_target_": "CacheDataset",
                "data": "$[{'image': i, 'label': l} for i, l in zip(@images[-2:], @labels[-2:])]",
                "transform": "@validate#preprocessing",
            },
            "dataloader": {
                "_target_": "DataLoader",
                "dataset": "@validate#dataset",
                "batch_size": 1,
                "num_workers": 0,
            },
            "inferer": {
                "_target_": "SlidingWindowInferer",
                "roi_size": [16, 16, 16],
                "sw_batch_size": 4,
                "overlap": 0.25,
            },
            "postprocessing": "%train#postprocessing",
            "handlers": [
                {"_target_": "StatsHandler", "iteration_log": False},
                {**log, "iteration_log": False},
                {
                    "_target_": "CheckpointSaver",
                    "save_dir": "@ckpt_dir",
                    "save_dict": {"model": "@network"},
                    "save_key_metric": True,
                    "key_metric_filename": "model.pt",
                },
            ],
            "key_metric": {"val_mean_dice": _dice()},
            "additional_metrics": {
                "val_accuracy": {
                    "_target_": "ignite.metrics.Accuracy",
                    "output_transform": f"{FROM_ENGINE}(['pred', 'label'])",
                }
            },
            "evaluator": {
                "_target_": "SupervisedEvaluator",
                "device": "@device",
                "val_data_loader": "@validate#dataloader",
                "network": "@network",
                "inferer": "@validate#inferer",
                "postprocessing": "@validate#postprocessing",
                "key_val_metric": "@validate#key_metric",
                "additional_metrics": "@validate#additional_metrics",
                "val_handlers": "@validate#handlers",
                "amp": True,
            },
        },
        "initialize": ["$monai.utils.set_determinism(seed=123)"],
        "run": ["$@train#trainer.run()"],
    }


def _inference(
    before: Sequence[Any], network: dict[str, Any], roi: Sequence[int], after: Sequence[Any] = ()
) -> dict[str, Any]:
    """Only the image's transforms, softmax or sigmoid, inverse, labels, saving."""
    image = [_image_only(t) for t in before if t["keys"] != "label"]
    activation, labels = after or (
        {"_target_": "Activationsd", "keys": "pred", "softmax": True},
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
    )
    invert = {
        "_target_": "Invertd",
        "keys": "pred",
        "transform": "@preprocessing",
        "orig_keys": "image",
        "nearest_interp": False,
        "to_tensor": True,
    }
    save = {
        "_target_": "SaveImaged",
        "keys": "pred",
        "output_dir": "@output_dir",
        "output_postfix": "@output_postfix",
    }
    return {
        "imports": ["$import glob"],
        "bundle_root": ".",
        "output_dir": "$@bundle_root + '/eval'",
        "output_postfix": "seg",
        "dataset_dir": "/workspace/data",
        "datalist": "$list(sorted(glob.glob(@dataset_dir + '/*.nii.gz')))",
        "device": DEVICE,
        "network_def": dict(network),
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": image},
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': i} for i in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(roi),
            "sw_batch_size": 4,
            "overlap": 0.25,
        },
        "postprocessing": {"_target_": "Compose", "transforms": [activation, invert, labels, save]},
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "$@bundle_root + '/models/model.pt'",
                "load_dict": {"model": "@network"},
            },
            {"_target_": "StatsHandler", "iteration_log": False},
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
            "amp": True,
        },
        "run": ["$@evaluator.run()"],
    }


def _evaluate() -> dict[str, Any]:
    """An override of the training config, as the zoo has it."""
    return {
        "validate#handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "$@ckpt_dir + '/model.pt'",
                "load_dict": {"model": "@network"},
            },
            {"_target_": "StatsHandler", "iteration_log": False},
            {"_target_": "MetricsSaver", "save_dir": "@output_dir", "metrics": ["val_mean_dice"]},
        ],
        "run": ["$@validate#evaluator.run()"],
    }


def _metadata(network: dict[str, Any], size: Sequence[int]) -> dict[str, Any]:
    """Of MONAI's schema 20240725."""
    tensor = {"type": "image", "spatial_shape": list(size), "dtype": "float32"}
    tensor |= {"value_range": [0, 1], "is_patch_data": True}
    image = {"format": "magnitude", "modality": "MR", "num_channels": network["in_channels"]}
    outputs = network["out_channels"]
    names = {str(i): "background" if i == 0 else f"structure {i}" for i in range(outputs)}
    pred = {"format": "segmentation", "num_channels": outputs, "channel_def": names}
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/"
        "0.8.1/meta_schema_20240725.json",
        "version": "0.1.0",
        "changelog": {"0.1.0": "first"},
        "monai_version": "1.4.0",
        "pytorch_version": "2.4.0",
        "numpy_version": "1.24.4",
        "required_packages_version": {"nibabel": "5.2.1", "pytorch-ignite": "0.4.11"},
        "task": "Segmentation of a bright ellipsoid",
        "description": "A tiny network for tests",
        "authors": "A stranger",
        "copyright": "Copyright (c) A stranger",
        "eval_metrics": {"mean_dice": 0.5},
        "network_data_format": {
            "inputs": {"image": tensor | image},
            "outputs": {"pred": tensor | pred},
        },
    }


def _write(
    folder: Path,
    train: dict[str, Any],
    inference: dict[str, Any],
    network: dict[str, Any],
    size: Sequence[int],
    suffix: str = ".json",
) -> Path:
    for name in ("configs", "models", "docs"):
        (folder / name).mkdir(parents=True)
    write = json.dumps if suffix == ".json" else yaml.safe_dump
    texts = {"train": train, "inference": inference, "evaluate": _evaluate()}
    for name, content in texts.items():
        (folder / "configs" / f"{name}{suffix}").write_text(write(content, indent=4))
    (folder / "configs" / "metadata.json").write_text(json.dumps(_metadata(network, size)))
    (folder / "LICENSE").write_text("Apache License, Version 2.0\n")
    (folder / "docs" / "README.md").write_text("# A bundle\n")
    torch.manual_seed(0)
    arguments = {k: v for k, v in network.items() if k != "_target_"}
    made = getattr(nets, network["_target_"].rpartition(".")[2])(**arguments)
    torch.save(made.state_dict(), folder / "models" / "model.pt")
    return folder


def _dice(pred: str = "pred", label: str = "label", background: bool = False) -> dict[str, Any]:
    return {
        "_target_": "MeanDice",
        "include_background": background,
        "output_transform": f"{FROM_ENGINE}(['{pred}', '{label}'])",
    }


def _scaled() -> dict[str, Any]:
    return {
        "_target_": "ScaleIntensityRanged",
        "keys": "image",
        "a_min": -57,
        "a_max": 100,
        "b_min": 0.0,
        "b_max": 1.0,
        "clip": True,
    }


def _crop(*size: int) -> dict[str, Any]:
    return {
        "_target_": "RandCropByPosNegLabeld",
        "keys": ["image", "label"],
        "label_key": "label",
        "spatial_size": list(size),
        "pos": 1,
        "neg": 1,
        "num_samples": 2,
        "image_key": "image",
        "image_threshold": 0,
    }


def _softmax(classes: int) -> list[dict[str, Any]]:
    return [
        {"_target_": "Activationsd", "keys": "pred", "softmax": True},
        {
            "_target_": "AsDiscreted",
            "keys": ["pred", "label"],
            "argmax": [True, False],
            "to_onehot": classes,
        },
    ]


def _image_only(transform: dict[str, Any]) -> dict[str, Any]:
    return transform | {"keys": "image"}


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


def _save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, np.diag([1.0, 1.0, 1.5, 1.0])), path)
