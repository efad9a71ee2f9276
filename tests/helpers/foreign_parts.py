"""Parts of the configs of bundles in the style of the model zoo."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import yaml
from monai.networks import nets

FROM_ENGINE = "$monai.handlers.from_engine"
DEVICE = "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')"


def train_config(
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
            "key_metric": {"train_mean_dice": dice_metric()},
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
            "key_metric": {"val_mean_dice": dice_metric()},
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


def inference_config(
    before: Sequence[Any], network: dict[str, Any], roi: Sequence[int], after: Sequence[Any] = ()
) -> dict[str, Any]:
    """Only the image's transforms, softmax or sigmoid, inverse, labels, saving."""
    image = [image_only(t) for t in before if t["keys"] != "label"]
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


def evaluate_config() -> dict[str, Any]:
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


def metadata_of(network: dict[str, Any], size: Sequence[int]) -> dict[str, Any]:
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


def write_bundle(
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
    texts = {"train": train, "inference": inference, "evaluate": evaluate_config()}
    for name, content in texts.items():
        (folder / "configs" / f"{name}{suffix}").write_text(write(content, indent=4))
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata_of(network, size)))
    (folder / "LICENSE").write_text("Apache License, Version 2.0\n")
    (folder / "docs" / "README.md").write_text("# A bundle\n")
    torch.manual_seed(0)
    arguments = {k: v for k, v in network.items() if k != "_target_"}
    made = getattr(nets, network["_target_"].rpartition(".")[2])(**arguments)
    torch.save(made.state_dict(), folder / "models" / "model.pt")
    return folder


def dice_metric(
    pred: str = "pred", label: str = "label", background: bool = False
) -> dict[str, Any]:
    return {
        "_target_": "MeanDice",
        "include_background": background,
        "output_transform": f"{FROM_ENGINE}(['{pred}', '{label}'])",
    }


def scaled() -> dict[str, Any]:
    return {
        "_target_": "ScaleIntensityRanged",
        "keys": "image",
        "a_min": -57,
        "a_max": 100,
        "b_min": 0.0,
        "b_max": 1.0,
        "clip": True,
    }


def crop(*size: int) -> dict[str, Any]:
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


def softmax(classes: int) -> list[dict[str, Any]]:
    return [
        {"_target_": "Activationsd", "keys": "pred", "softmax": True},
        {
            "_target_": "AsDiscreted",
            "keys": ["pred", "label"],
            "argmax": [True, False],
            "to_onehot": classes,
        },
    ]


def image_only(transform: dict[str, Any]) -> dict[str, Any]:
    return transform | {"keys": "image"}


def save_volume(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, np.diag([1.0, 1.0, 1.5, 1.0])), path)
