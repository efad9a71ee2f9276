"""ONNX Runtime: a written ``model.onnx``, or a network converted in memory for a window's size."""

from __future__ import annotations

import collections
import io
import tempfile
import threading
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..networks.cost import Run
from .formats import Source, onnx_session, write_format
from .quiet import without_warnings
from .traced import without_gradients

_MOST_SHAPES = 16  # converted models that are kept


def onnx_engine(source: Source) -> Run:
    """The bundle's ``model.onnx`` where it has one; otherwise converted here, for any window."""
    written = source.folder / "models" / "model.onnx"
    if source.written and written.exists():
        return _sessions(written)
    try:
        run = onnx_in_memory(source)
        run(source.example()[:1])
    except Exception:  # the exporter from a trace is the quick one; the other takes more networks
        return _exported(source)
    return run


def _exported(source: Source) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "models").mkdir()
        copied = Source(Path(folder), source.network, source.shape, source.fixed_size)
        return _sessions(write_format("onnx", copied).read_bytes())


def onnx_in_memory(source: Source) -> Run:
    """Converted at its first window of a size, which takes a second and not the ten of a file.

    No file of the bundle is read, so it has the weights of ``source.network`` in any case. A model
    takes one sample: a trace holds the sizes that it has seen as constants.
    """
    ready: collections.OrderedDict[tuple[int, ...], Run] = collections.OrderedDict()
    lock = threading.Lock()

    def run(x: Tensor) -> Tensor:
        shape = tuple(x.shape[1:])
        with lock:
            if shape not in ready:
                ready[shape] = _sessions(_converted(source, shape))
                if len(ready) > _MOST_SHAPES:
                    ready.popitem(last=False)
            ready.move_to_end(shape)
            session = ready[shape]
        return torch.cat([session(sample) for sample in x.split(1)])

    return run


def _converted(source: Source, shape: tuple[int, ...]) -> bytes:
    """By the exporter from a trace: a thirtieth of the time of the one from an exported program."""
    file: Any = io.BytesIO()  # which that exporter writes to as well
    with without_warnings(), without_gradients(source.network), torch.no_grad():
        torch.onnx.export(
            source.network,
            (torch.zeros((1, *shape)),),
            file,
            dynamo=False,
            input_names=["image"],
            output_names=["pred"],
        )
    return bytes(file.getvalue())


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
