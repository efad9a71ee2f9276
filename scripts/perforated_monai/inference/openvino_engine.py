"""OpenVINO and NNCF: convert, quantise, and run with as many threads as the caller has."""

from __future__ import annotations

import collections
import contextlib
import io
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..networks.cost import Run
from .formats import Source, quiet

INT8_FILE = "model_int8.xml"
_MOST_SHAPES = 16  # compiled models that are kept; an inferer may give every volume its own shape


def openvino_engine(precision: str) -> Callable[[Source, list[Tensor]], Run]:
    """Loader of the network in ``f32`` or ``bf16``."""

    def load(source: Source, _: list[Tensor]) -> Run:
        ov = import_openvino()
        return _compiled(ov, _converted(ov, source), precision)

    return load


def int8_engine(source: Source, batches: list[Tensor]) -> Run:
    """The bundle's calibrated model, or one calibrated on ``batches``."""
    ov = import_openvino()
    written = source.folder / "models" / INT8_FILE
    model = ov.Core().read_model(written) if written.exists() else _quantised(source, batches)
    return _compiled(ov, model, "f32")


def save_int8(source: Source, batches: list[Tensor]) -> Path:
    """Write the calibrated OpenVINO model, ``models/model_int8.xml`` and ``.bin``."""
    ov = import_openvino()
    file = source.folder / "models" / INT8_FILE
    with quiet():
        ov.save_model(_quantised(source, batches), str(file), compress_to_fp16=False)
    return file


def import_openvino() -> Any:
    """OpenVINO without its telemetry.

    Importing it writes an id into the home folder and reports to Google Analytics without asking;
    where ``openvino_telemetry`` cannot be imported, OpenVINO and NNCF use an empty stand-in.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _quantised(source: Source, batches: list[Tensor]) -> Any:
    """Post-training quantisation, calibrated on single patches."""
    ov = import_openvino()
    import nncf

    samples = [x[i : i + 1].numpy() for x in batches for i in range(len(x))]
    model = _converted(ov, source)
    with contextlib.redirect_stdout(io.StringIO()):  # bars of its own
        return nncf.quantize(model, nncf.Dataset(samples), subset_size=len(samples))


def _converted(ov: Any, source: Source) -> Any:
    """From a trace, which took a fifteenth of the time of an exported program with free axes.

    OpenVINO would trace twice to compare; labels are compared with torch's before use anyway.
    """
    example = source.example()
    with torch.no_grad():
        traced = torch.jit.trace(source.network, example, check_trace=False)
    return ov.convert_model(traced, example_input=example)


def _compiled(ov: Any, model: Any, precision: str) -> Run:
    """One compiled model for each input shape and number of threads: fixed shapes run faster.

    A request holds one call at a time, so each is lent to one thread.
    """
    core = ov.Core()
    all_threads = torch.get_num_threads()
    ready: collections.OrderedDict[Any, tuple[Any, list[Any]]] = collections.OrderedDict()
    lock = threading.Lock()

    def compiled(shape: tuple[int, ...], threads: int) -> Any:
        fixed = model.clone()
        fixed.reshape(list(shape))
        streams = max(all_threads // threads, 1)
        settings = {
            "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
            "NUM_STREAMS": streams,
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": streams * threads,
        }
        return core.compile_model(fixed, "CPU", settings)

    def run(x: Tensor) -> Tensor:
        key = (tuple(x.shape), torch.get_num_threads())
        with lock:
            if key not in ready:
                ready[key] = (compiled(*key), [])
                if len(ready) > _MOST_SHAPES:
                    ready.popitem(last=False)
            ready.move_to_end(key)
            made, idle = ready[key]
        request = idle.pop() if idle else made.create_infer_request()
        found = torch.from_numpy(request.infer([x.contiguous().numpy()], share_inputs=True)[0])
        idle.append(request)
        return found

    return run
