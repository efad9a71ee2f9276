"""OpenVINO: convert a network, and run it with as many threads as the caller has."""

from __future__ import annotations

import collections
import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..networks.cost import Run
from .formats import Source
from .traced import traced

_MOST_SHAPES = 16  # compiled models that are kept; an inferer may give every volume its own shape
_TELEMETRY = "openvino_telemetry"
_IMPORTING = threading.RLock()


def openvino_engine(precision: str) -> Callable[[Source], Run]:
    """Loader of the network in ``f32`` or ``bf16``."""

    def load(source: Source) -> Run:
        with without_telemetry():
            import openvino

            return _compiled(openvino, _converted(openvino, source), precision)

    return load


@contextlib.contextmanager
def without_telemetry() -> Iterator[None]:
    """Import OpenVINO without its telemetry, and leave ``sys.modules`` as it was.

    The telemetry writes an id into the home folder and reports to Google Analytics without asking.
    OpenVINO's modules use an empty stand-in where they cannot import it; those that are imported in
    here keep the stand-in. A telemetry that the caller has imported stays.
    """
    with _IMPORTING:
        if _TELEMETRY in sys.modules:
            yield
            return
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
        try:
            yield
        finally:
            del sys.modules[_TELEMETRY]


def _converted(ov: Any, source: Source) -> Any:
    """From a trace, which took a fifteenth of the time of an exported program with free axes."""
    return ov.convert_model(traced(source), example_input=source.example())


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
            model_of_shape, idle = ready[key]
        request = idle.pop() if idle else model_of_shape.create_infer_request()
        output = torch.from_numpy(request.infer([x.contiguous().numpy()], share_inputs=True)[0])
        idle.append(request)
        return output

    return run
