"""A network as a TensorRT engine, or a sentence about what is missing for it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from monai.networks import trt_compile
from torch import nn

from ..errors import UserError

PACKAGES = ("tensorrt", "polygraphy", "onnx")
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")


def trt_network(
    network: nn.Module,
    checkpoint: str | Path,
    output_dir: str | Path,
    sw_batch_size: int = 4,
    precision: str = "fp16",
) -> nn.Module:
    """Let MONAI's ``trt_compile`` run a network by TensorRT; for ``configs/inference_trt.yaml``.

    The engine is built when the first window arrives (minutes) and kept as
    ``<output_dir>/tensorrt/model.plan`` for later runs on the same GPU; a newer checkpoint makes it
    anew. Without GPU or packages ``trt_compile`` would go on with the slow network and a warning.

    Args:
        network: with its weights.
        checkpoint: the file that they came from.
        output_dir: folder of the masks.
        sw_batch_size: windows at a time, at most.
        precision: of ``PRECISIONS``.

    Raises:
        UserError: naming what is missing, or for another precision.
    """
    if precision not in PRECISIONS:
        msg = f"trt_precision must be one of {', '.join(PRECISIONS)}; got {precision!r}."
        raise UserError(msg)
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    missing = ([] if torch.cuda.is_available() else ["an NVIDIA GPU"]) + missing
    if missing:
        msg = (
            f"inference_trt.yaml needs {', '.join(missing)}, which is not here. Leave the overlay "
            "out: inference.json alone runs on any device."
        )
        raise UserError(msg)
    folder = Path(output_dir) / "tensorrt"
    folder.mkdir(parents=True, exist_ok=True)
    arguments = {
        "precision": precision,
        "dynamic_batchsize": [1, sw_batch_size, sw_batch_size],
        "timestamp": int(Path(checkpoint).stat().st_mtime),
    }
    return trt_compile(network.to("cuda"), str(folder / "model"), args=arguments)
