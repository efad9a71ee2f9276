"""nnU-Net v2's predictor with its own plan for Task04, run in the environment of ``peers.py``.

    python peers_nnunet.py SCANS OUTPUT [--no-mirroring] [--facts]

The plan is what nnunetv2 2.8.1's planner made of the 260 cases. Weights are random, which changes
neither the time nor the memory.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

for _key in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
    os.environ.setdefault(_key, "unused")  # it warns about them while it is imported

_STAGES = 4
ARCHITECTURE: dict[str, Any] = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": _STAGES,
        "features_per_stage": [32, 64, 128, 256],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * _STAGES,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (_STAGES - 1),
        "n_conv_per_stage": [2] * _STAGES,
        "n_conv_per_stage_decoder": [2] * (_STAGES - 1),
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}
_RESAMPLING = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
CONFIGURATION: dict[str, Any] = {
    "data_identifier": "nnUNetPlans_3d_fullres",
    "preprocessor_name": "DefaultPreprocessor",
    "batch_size": 9,
    "patch_size": [40, 56, 40],
    "median_image_size_in_voxels": [36.0, 50.0, 35.0],
    "spacing": [1.0, 1.0, 1.0],
    "normalization_schemes": ["ZScoreNormalization"],
    "use_mask_for_norm": [False],
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": _RESAMPLING,
    "resampling_fn_seg": "resample_data_or_seg_to_shape",
    "resampling_fn_seg_kwargs": {**_RESAMPLING, "is_seg": True, "order": 1},
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities_kwargs": {**_RESAMPLING, "order": 1},
    "architecture": ARCHITECTURE,
    "batch_dice": False,
}
PLANS: dict[str, Any] = {
    "dataset_name": "Dataset004_Hippocampus",
    "plans_name": "nnUNetPlans",
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    # Of volumes of another kind than CT they are not used, and asked for all the same.
    "foreground_intensity_properties_per_channel": {"0": {}},
    "configurations": {"3d_fullres": CONFIGURATION},
}
DATASET = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "Anterior": 1, "Posterior": 2},
    "file_ending": ".nii.gz",
}


def make_predictor(mirroring: bool) -> Any:
    """A predictor with random weights on the CPU."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    torch.manual_seed(0)
    network = get_network_from_plans(
        ARCHITECTURE["network_class_name"],
        ARCHITECTURE["arch_kwargs"],
        ARCHITECTURE["_kw_requires_import"],
        *(1, 3),
        deep_supervision=False,
    )
    network.eval()
    predictor = nnUNetPredictor(
        use_mirroring=mirroring,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    plans = PlansManager(PLANS)
    predictor.manual_initialization(
        network,
        plans,
        plans.get_configuration("3d_fullres"),
        [network.state_dict()],
        DATASET,
        "nnUNetTrainer",
        (0, 1, 2),
    )
    return predictor


def facts(files: list[Path]) -> dict[str, float]:
    """Parameters, GFLOP of a window, and windows of a volume on the average."""
    import nibabel as nib
    import torch
    from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window
    from torch.utils.flop_counter import FlopCounterMode

    network, size = make_predictor(False).network, tuple(CONFIGURATION["patch_size"])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros((1, 1, *size)))
    windows = []
    for file in files:
        shape = nib.load(file).shape[::-1]
        padded = [max(s, p) for s, p in zip(shape, size, strict=True)]
        steps = compute_steps_for_sliding_window(padded, size, 0.5)
        windows.append(len(steps[0]) * len(steps[1]) * len(steps[2]))
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "gflop": counter.get_total_flops() / 1e9,
        "windows": sum(windows) / len(windows),
    }


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scans", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--no-mirroring", action="store_true")
    parser.add_argument("--facts", action="store_true")
    given = parser.parse_args()
    files = sorted(given.scans.glob("*.nii.gz"))
    if given.facts:
        print(json.dumps(facts(files)))
        return
    given.output.mkdir(parents=True, exist_ok=True)
    predictor = make_predictor(not given.no_mirroring)
    names = [str(given.output / file.name.removesuffix(".nii.gz")) for file in files]
    predictor.predict_from_files_sequential([[str(file)] for file in files], names)
    assert "torchvision" not in sys.modules


if __name__ == "__main__":
    _main()
