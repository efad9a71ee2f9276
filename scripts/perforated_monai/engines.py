"""What else can run an exported network: low precision and engines, and the choice among them."""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import UserError
from .formats import (
    FIXED_SIZE,
    Source,
    missing_packages,
    onnx_session,
    quiet,
    write_format,
)
from .measure import Run, time_patches
from .network import build_network, load_weights
from .parity import compare, exclusive_labels, outputs
from .patches import load_patches

LEAST_AGREEMENT = 0.999
INT8_FILE = "model_int8.xml"


@dataclass(frozen=True)
class Engine:
    """Packages it needs, the extra that brings them, and how it is made from a network."""

    packages: list[str]
    extra: str
    load: Callable[[Source, list[Tensor]], Run]


def choose_engine(
    bundle: str | Path, volumes: str | Path | None = None, limit: int = 8
) -> tuple[str, str]:
    """The fastest installed engine whose labels agree with float32 torch, and why.

    Args:
        bundle: exported bundle.
        volumes: folder of calibration volumes; phantoms when not given.
        limit: patches compared.

    Returns:
        a key of ``ENGINES`` with at least 99.9 % equal labels, and one sentence with the figures.
    """
    source, inference = bundle_source(bundle)
    patches = load_patches(bundle, inference, source.shape, volumes, limit)
    runs = load_engines(source, patches.batches, list(ENGINES))
    return fastest(runs, patches.batches, exclusive_labels(inference), patches.source)


def load_engine(bundle: str | Path, name: str, volumes: str | Path | None = None) -> Run:
    """A callable ``(B, C, *space) -> (B, K, *space)`` of an exported bundle.

    Args:
        bundle: exported bundle.
        name: a key of ``ENGINES``.
        volumes: calibrates ``openvino-int8`` where the bundle holds no calibrated model; phantoms
            when not given.

    Raises:
        UserError: for an unknown name or a missing package (it names the extra).
    """
    source, inference = bundle_source(bundle)
    batches: list[Tensor] = []
    if name == "openvino-int8" and not (source.folder / "models" / INT8_FILE).exists():
        batches = load_patches(bundle, inference, source.shape, volumes).batches
    return load_engines(source, batches, [name], required=True)[name]


def load_engines(
    source: Source, batches: list[Tensor], names: list[str], required: bool = False
) -> dict[str, Run]:
    """The named engines that are installed; with ``required`` a missing one is an error."""
    runs = {}
    for name in names:
        if name not in ENGINES:
            msg = f"engine takes auto, all or {', '.join(ENGINES)}; got {name!r}."
            raise UserError(msg)
        engine = ENGINES[name]
        missing = missing_packages(engine.packages)
        if name == "tensorrt" and not torch.cuda.is_available():
            missing = [*missing, "a GPU"]
        if missing and required:
            msg = (
                f"Engine {name} needs {', '.join(missing)}: "
                f"pip install 'perforated-monai[{engine.extra}]'."
            )
            raise UserError(msg)
        if not missing:
            with quiet(), torch.no_grad():
                runs[name] = engine.load(source, batches)
    return runs


def fastest(
    runs: dict[str, Run], batches: list[Tensor], exclusive: bool, patches: str
) -> tuple[str, str]:
    """The choice of ``choose_engine`` among loaded engines; ``torch`` must be one of them."""
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
        reason += f" Not tried, not installed here: {', '.join(absent)}."
    return name, reason


def bundle_source(bundle: str | Path) -> tuple[Source, dict[str, Any]]:
    """The network of an exported bundle in eval mode, and the content of ``inference.json``."""
    bundle = Path(bundle)
    inference = json.loads((bundle / "configs" / "inference.json").read_text())
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    spec = inference["network_def"]["spec"]
    network = load_weights(build_network(spec), bundle / "models" / "model.pt").eval()
    fixed = spec["base"]["name"] in FIXED_SIZE
    return Source(bundle, network, input_shape(metadata), fixed), inference


def input_shape(metadata: dict[str, Any]) -> tuple[int, ...]:
    """``(C, *space)`` of a bundle's input patch."""
    image = metadata["network_data_format"]["inputs"]["image"]
    return (int(image["num_channels"]), *[int(s) for s in image["spatial_shape"]])


def save_int8(source: Source, batches: list[Tensor]) -> Path:
    """Write the calibrated OpenVINO model, ``models/model_int8.xml`` and ``.bin``."""
    ov = import_openvino()
    file = source.folder / "models" / INT8_FILE
    with quiet():
        ov.save_model(_quantised(source, batches), str(file), compress_to_fp16=False)
    return file


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
        return onnx_session(written)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "models").mkdir()
        copied = Source(Path(folder), source.network, source.shape, source.fixed_size)
        return onnx_session(write_format("onnx", copied))


def _openvino(precision: str) -> Callable[[Source, list[Tensor]], Run]:
    def load(source: Source, _: list[Tensor]) -> Run:
        ov = import_openvino()
        return _compiled(ov, _converted(ov, source), precision)

    return load


def _int8(source: Source, batches: list[Tensor]) -> Run:
    ov = import_openvino()
    written = source.folder / "models" / INT8_FILE
    model = ov.Core().read_model(written) if written.exists() else _quantised(source, batches)
    return _compiled(ov, model, "f32")


def _quantised(source: Source, batches: list[Tensor]) -> Any:
    """Post-training quantisation, calibrated on single patches."""
    ov = import_openvino()
    import nncf

    samples = [x[i : i + 1].numpy() for x in batches for i in range(len(x))]
    model = _converted(ov, source)
    return nncf.quantize(model, nncf.Dataset(samples), subset_size=len(samples))


def _converted(ov: Any, source: Source) -> Any:
    """From a trace, which took a fifteenth of the time of an exported program with free axes."""
    return ov.convert_model(source.network, example_input=source.example())


def _compiled(ov: Any, model: Any, precision: str) -> Run:
    """One compiled model for each input shape that comes: fixed shapes run faster."""
    core = ov.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    ready: dict[tuple[int, ...], Any] = {}

    def run(x: Tensor) -> Tensor:
        shape = tuple(x.shape)
        if shape not in ready:
            fixed = model.clone()
            fixed.reshape(list(shape))
            ready[shape] = core.compile_model(fixed, "CPU", settings)
        return torch.from_numpy(ready[shape](x.contiguous().numpy())[0])

    return run


def import_openvino() -> Any:
    """OpenVINO without its telemetry.

    Importing it writes an id into the home folder and reports to Google Analytics without asking;
    where ``openvino_telemetry`` cannot be imported, OpenVINO and NNCF use an empty stand-in.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


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
    "openvino": Engine(["openvino"], "engines", _openvino("f32")),
    "openvino-bf16": Engine(["openvino"], "engines", _openvino("bf16")),
    "openvino-int8": Engine(["openvino", "nncf"], "engines", _int8),
    "tensorrt": Engine(["torch_tensorrt"], "engines", _tensorrt),
}
