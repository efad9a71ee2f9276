"""What else can run an exported network: low precision and engines, and which of them is fastest.

Every engine runs on the CPU with as many threads as torch has in the calling thread, and may be
called from several threads at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..networks.agreement import compare, outputs
from ..networks.cost import Run, time_patches
from .formats import Source, missing_packages
from .onnx_engine import onnx_engine
from .openvino_engine import openvino_engine
from .quiet import without_warnings

LEAST_AGREEMENT = 0.999


@dataclass(frozen=True)
class Engine:
    """Packages it needs, the extra that brings them, and how it is made from a network."""

    packages: list[str]
    extra: str
    load: Callable[[Source], Run]


def load_engines(source: Source, names: list[str], required: bool = False) -> dict[str, Run]:
    """The named engines that are installed; with ``required`` a missing one is an error.

    Args:
        source: the network, and the bundle whose written models are used.
        names: keys of ``ENGINES``.
        required: refuse a missing package; otherwise that engine is left out.

    Raises:
        UserError: for an unknown name, or a missing package (it names the extra).
    """
    if required:
        for name in names:
            require_engine(name)
    runs = {}
    for name in names:
        if not missing_for(name):
            with without_warnings(), torch.no_grad():
                runs[name] = ENGINES[name].load(source)
    return runs


def require_engine(name: str) -> None:
    """Refuse an engine that cannot run here.

    Raises:
        UserError: for an unknown name, or a missing package (it names the extra).
    """
    if missing := missing_for(name):
        msg = (
            f"Engine {name} needs {', '.join(missing)}: "
            f"pip install 'perforated-monai[{ENGINES[name].extra}]'."
        )
        raise UserError(msg)


def missing_for(name: str) -> list[str]:
    """Packages that an engine needs and that are not installed."""
    if name not in ENGINES:
        msg = f"engine takes auto, all or {', '.join(ENGINES)}; got {name!r}."
        raise UserError(msg)
    return missing_packages(ENGINES[name].packages)


def fastest(
    runs: dict[str, Run], batches: list[Tensor], exclusive: bool, patches: str
) -> tuple[str, str]:
    """The fastest of these engines whose labels agree with float32 torch, and why.

    Args:
        runs: loaded engines; ``torch`` must be one of them.
        batches: what they are timed and compared on.
        exclusive: one label a voxel, see ``agreement.compare``.
        patches: the words that say what the batches are.

    Returns:
        a key of ``runs`` with at least 99.9 % equal labels, and one sentence with the figures.
    """
    reference = outputs(runs["torch"], batches)
    agreement = {
        n: compare(reference, outputs(r, batches), exclusive)["label_agreement"]
        for n, r in runs.items()
    }
    with torch.no_grad():
        times = time_patches(runs, batches[0], rounds=5)
    ms = {n: times[n]["median"] for n in runs}
    order = sorted(runs, key=lambda n: ms[n])
    name = next(n for n in order if agreement[n] >= LEAST_AGREEMENT)
    reason = (
        f"{name}: {ms[name]:.1f} ms a patch, {ms['torch'] / ms[name]:.1f} times as fast as torch "
        f"float32 ({ms['torch']:.1f} ms), {agreement[name]:.3%} equal labels on {patches}."
    )
    for refused in order[: order.index(name)]:
        reason += f" {refused} was faster ({ms[refused]:.1f} ms)"
        reason += f" but agreed on {agreement[refused]:.3%}."
    if absent := [n for n in ENGINES if n not in runs]:
        reason += f" Not tried here: {', '.join(absent)}."
    return name, reason


def input_shape(metadata: dict[str, Any]) -> tuple[int, ...]:
    """``(C, *space)`` of a bundle's input patch."""
    image = metadata["network_data_format"]["inputs"]["image"]
    return (int(image["num_channels"]), *[int(s) for s in image["spatial_shape"]])


# -- the engines -----------------------------------------------------------------------------


def _torch(source: Source) -> Run:
    return _without_gradients(source.network)


def _bf16(source: Source) -> Run:
    network = copy.deepcopy(source.network).bfloat16()
    return _without_gradients(lambda x: network(x.bfloat16()).float())


def _without_gradients(network: Run) -> Run:
    def run(x: Tensor) -> Tensor:
        with torch.no_grad():
            return network(x)

    return run


ENGINES: dict[str, Engine] = {
    "torch": Engine([], "export", _torch),
    "torch-bf16": Engine([], "export", _bf16),
    "onnxruntime": Engine(["onnx", "onnxscript", "onnxruntime"], "export", onnx_engine),
    "openvino": Engine(["openvino"], "engines", openvino_engine("f32")),
    "openvino-bf16": Engine(["openvino"], "engines", openvino_engine("bf16")),
}
