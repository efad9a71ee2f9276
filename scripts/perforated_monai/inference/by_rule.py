"""Which engine suits a network by what it is made of and where it runs: nothing is timed."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ..networks.cost import Run
from .engines import ENGINES, missing_for
from .formats import Source
from .onnx_engine import onnx_in_memory

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# How a candidate is made; ONNX Runtime without the bundle's model.onnx, which may be another's.
LOADERS: dict[str, Callable[[Source], Run]] = {
    "openvino": ENGINES["openvino"].load,
    "onnxruntime": onnx_in_memory,
}


def candidates(network: nn.Module, device_type: str, one_size: bool) -> list[str]:
    """Engines of float32 for a network, the fastest first; the last is always ``torch``.

    Args:
        network: with its weights.
        device_type: as of ``torch.device``; the others run on a CPU alone.
        one_size: windows have one size. An engine is compiled for a size, which takes longer than
            a window.

    OpenVINO took a third to three quarters of torch's time on each network that was measured, and
    ONNX Runtime six tenths where convolutions are grouped, for which torch has no fast path on a
    CPU. Where they are not, it took up to a tenth more (tests/README.md).
    """
    if device_type != "cpu" or not one_size:
        return ["torch"]
    names = [] if missing_for("openvino") else ["openvino"]
    if _is_grouped(network) and not missing_for("onnxruntime"):
        names.append("onnxruntime")
    return [*names, "torch"]


def _is_grouped(network: nn.Module) -> bool:
    return any(m.groups > 1 for m in network.modules() if isinstance(m, _CONVOLUTIONS))
