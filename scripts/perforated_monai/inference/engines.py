"""What else can run an exported network: low precision and engines, and the choice among them.

Every engine but ``tensorrt`` runs on the CPU with as many threads as torch has in the calling
thread, and may be called from several threads at a time.
"""

from __future__ import annotations

import copy
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..networks.agreement import compare, outputs
from ..networks.cost import Run, time_patches
from .formats import Source, missing_packages, onnx_session, quiet, write_format
from .openvino_engine import INT8_FILE, import_openvino, int8_engine, openvino_engine, save_int8

__all__ = [
    "ENGINES",
    "INT8_FILE",
    "LEAST_AGREEMENT",
    "Engine",
    "fastest",
    "import_openvino",
    "input_shape",
    "load_engines",
    "missing_for",
    "pick",
    "require_engine",
    "save_int8",
]

LEAST_AGREEMENT = 0.999


@dataclass(frozen=True)
class Engine:
    """Packages it needs, the extra that brings them, and how it is made from a network."""

    packages: list[str]
    extra: str
    load: Callable[[Source, list[Tensor]], Run]


def load_engines(
    source: Source, batches: list[Tensor], names: list[str], required: bool = False
) -> dict[str, Run]:
    """The named engines that are installed; with ``required`` a missing one is an error.

    Args:
        source: the network, and the bundle whose written models are used.
        batches: ``(B, C, *space)``, to calibrate ``openvino-int8`` where the bundle holds no
            calibrated model.
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
            with quiet(), torch.no_grad():
                runs[name] = ENGINES[name].load(source, batches)
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
    """What an engine needs and is not here: packages, or a GPU."""
    if name not in ENGINES:
        msg = f"engine takes auto, all or {', '.join(ENGINES)}; got {name!r}."
        raise UserError(msg)
    missing = missing_packages(ENGINES[name].packages)
    if name == "tensorrt" and not torch.cuda.is_available():
        missing = [*missing, "a GPU"]
    return missing


def fastest(
    runs: dict[str, Run], batches: list[Tensor], exclusive: bool, patches: str
) -> tuple[str, str]:
    """The fastest of these engines whose labels agree with float32 torch, and why.

    Args:
        runs: loaded engines; ``torch`` must be one of them.
        batches: what they are timed and compared on.
        exclusive: one label a voxel, see ``parity.compare``.
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
    order = sorted(runs, key=lambda n: times[n]["median"])
    return pick(order, {n: times[n]["median"] for n in runs}, agreement, patches)


def pick(
    order: list[str], ms: dict[str, float], agreement: dict[str, float], patches: str
) -> tuple[str, str]:
    """First engine of ``order`` (fastest first) that agrees, and the sentence that says why."""
    name = next(n for n in order if agreement[n] >= LEAST_AGREEMENT)
    refused = order[: order.index(name)]
    reason = (
        f"{name}: {ms[name]:.1f} ms a patch, {ms['torch'] / ms[name]:.1f} times as fast as torch "
        f"float32 ({ms['torch']:.1f} ms), {agreement[name]:.3%} equal labels on {patches}."
    )
    for other in refused:
        reason += f" {other} was faster ({ms[other]:.1f} ms) but agreed on {agreement[other]:.3%}."
    absent = [n for n in ENGINES if n not in ms]
    if absent:
        reason += f" Not tried here: {', '.join(absent)}."
    return name, reason


def input_shape(metadata: dict[str, Any]) -> tuple[int, ...]:
    """``(C, *space)`` of a bundle's input patch."""
    image = metadata["network_data_format"]["inputs"]["image"]
    return (int(image["num_channels"]), *[int(s) for s in image["spatial_shape"]])


# -- the engines -----------------------------------------------------------------------------


def _torch(source: Source, _: list[Tensor]) -> Run:
    return _without_gradients(source.network)


def _bf16(source: Source, _: list[Tensor]) -> Run:
    network = copy.deepcopy(source.network).bfloat16()
    return _without_gradients(lambda x: network(x.bfloat16()).float())


def _optimized(source: Source, _: list[Tensor]) -> Run:
    network = source.network
    if source.fixed_size:
        scripted = torch.jit.trace(network, source.example())
    else:
        scripted = torch.jit.script(network)
    return _without_gradients(torch.jit.optimize_for_inference(torch.jit.freeze(scripted.eval())))


def _without_gradients(network: Run) -> Run:
    def run(x: Tensor) -> Tensor:
        with torch.no_grad():
            return network(x)

    return run


def _onnxruntime(source: Source, _: list[Tensor]) -> Run:
    written = source.folder / "models" / "model.onnx"
    if written.exists():
        return _sessions(written)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "models").mkdir()
        copied = Source(Path(folder), source.network, source.shape, source.fixed_size)
        return _sessions(write_format("onnx", copied).read_bytes())


def _sessions(model: Path | bytes) -> Run:
    """One session for each number of threads that calls come with; a session has its own pool."""
    ready: dict[int, Run] = {}
    lock = threading.Lock()

    def run(x: Tensor) -> Tensor:
        with lock:
            threads = torch.get_num_threads()
            if threads not in ready:
                ready[threads] = onnx_session(model)
        return ready[threads](x)

    return run


def _tensorrt(source: Source, _: list[Tensor]) -> Run:
    """By MONAI's own command, float16; it needs torch_tensorrt and a GPU."""
    from monai.bundle import trt_export

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.ts"
        trt_export(
            net_id="network_def",
            filepath=str(file),
            ckpt_file=str(source.folder / "models" / "model.pt"),
            meta_file=str(source.folder / "configs" / "metadata.json"),
            config_file=str(source.folder / "configs" / "inference.json"),
            precision="fp16",
            input_shape=list(source.example().shape),
            dynamic_batchsize=[1, 2, 8],
            bundle_root=str(source.folder),
        )
        network = torch.jit.load(str(file)).cuda()
    return _without_gradients(lambda x: network(x.cuda()).float().cpu())


ENGINES: dict[str, Engine] = {
    "torch": Engine([], "export", _torch),
    "torch-bf16": Engine([], "export", _bf16),
    "torchscript-optimized": Engine([], "export", _optimized),
    "onnxruntime": Engine(["onnx", "onnxscript", "onnxruntime"], "export", _onnxruntime),
    "openvino": Engine(["openvino"], "engines", openvino_engine("f32")),
    "openvino-bf16": Engine(["openvino"], "engines", openvino_engine("bf16")),
    "openvino-int8": Engine(["openvino", "nncf"], "engines", int8_engine),
    "tensorrt": Engine(["torch_tensorrt"], "engines", _tensorrt),
}
