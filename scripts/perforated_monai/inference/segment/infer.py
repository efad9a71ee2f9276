"""The network over one prepared volume: stitched windows, or MONAI's own path."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...errors import UserError
from .limits import as_text
from .pipeline import InferenceBundle, Pipeline
from .reduce import ConfidenceHistogram, Reducer, activated, refuse_not_finite
from .states import Predicted, Prepared
from .window import Windows, buffer_bytes, stitch_windows

Predictor = Callable[[Tensor], Tensor]
_CPU = torch.device("cpu")


def fit_windows(
    windows: Windows, size: tuple[int, ...], outputs: int, activations: int, free: int | None
) -> tuple[Windows, str]:
    """Fewer windows at a time where memory is short, and a note about it.

    Args:
        windows: what the bundle asks for.
        size: voxels of the volume.
        outputs: channels of the network.
        activations: bytes a voxel of a window, see ``memory.activation_bytes``.
        free: bytes that may be taken; None when unknown.

    Raises:
        UserError: when one window at a time does not fit.
    """
    if windows.sw_batch_size == 1:  # one at a time meets PyTorch's slow path (layer.py)
        windows = dataclasses.replace(windows, sw_batch_size=2)
    held = buffer_bytes(size, windows, outputs) + math.prod(size)
    window = math.prod(s if r <= 0 else r for r, s in zip(windows.roi_size, size, strict=True))
    batch = windows.sw_batch_size
    if free is not None:
        batch = min(batch, (free - held) // (window * activations))
    if batch < 1:
        need = held + window * activations
        msg = f"it needs {as_text(need)} of memory; {as_text(free or 0)} are free. Crop it."
        raise UserError(msg)
    note = ""
    if batch < windows.sw_batch_size:
        note = (
            f"memory is short ({as_text(free or 0)}): {batch} windows at a time, not "
            f"{windows.sw_batch_size}"
        )
    return dataclasses.replace(windows, sw_batch_size=batch), note


def run_windows(
    inputs: Tensor,
    windows: Windows,
    reducer: Callable[[], Reducer],
    predictor: Callable[[torch.device], Predictor],
    device: torch.device,
    notes: list[str],
    skip_border: bool = False,
) -> Reducer:
    """Stitch on the device; out of its memory: sums on the CPU; still: everything on the CPU.

    Args:
        inputs: ``(1, C, X, Y, Z)``.
        windows: how they lie and are blended.
        reducer: makes what takes the finished parts; anew for each attempt.
        predictor: the network for a device.
        device: where to begin.
        notes: gets a line for each step down.
        skip_border: leave out what lies around the voxels above the lowest value.

    Raises:
        UserError: when it fits nowhere.
        NotStitchableError: see ``stitch_windows``.
    """
    box = _foreground(inputs, windows) if skip_border else None
    part = inputs if box is None else inputs[(slice(None), slice(None), *box)]
    for here, buffers in dict.fromkeys([(device, device), (device, _CPU), (_CPU, _CPU)]):
        try:
            taking = reducer()
            consume = taking if box is None else _Shifted(taking, box)
            stitch_windows(part, predictor(here), consume, windows, here, buffers)
            return taking
        except torch.OutOfMemoryError:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            where = "its sums" if buffers != _CPU else "the network"
            notes.append(f"{here} out of memory: {where} moved to the CPU")
    msg = "it does not fit into the memory of device or CPU. Crop or resample it."
    raise UserError(msg)


def run_whole(
    prepared: Prepared,
    inputs: Tensor,
    pipeline: Pipeline,
    bundle: InferenceBundle,
    predict: Predictor,
    device: torch.device,
    probabilities: bool,
) -> Predicted:
    """By the bundle's own inferer, with the logits of the whole volume."""
    with torch.no_grad():
        logits = bundle.inferer(inputs.to(device), predict)
    logits = torch.as_tensor(logits[0] if isinstance(logits, (list, tuple)) else logits)[0]
    refuse_not_finite(logits)
    histogram = ConfidenceHistogram()
    labels = logits > 0 if pipeline.sigmoid else logits.argmax(0, keepdim=True)
    histogram.add(logits, labels, pipeline.sigmoid)
    kept = activated(logits, pipeline.sigmoid).cpu().numpy() if probabilities else None
    return Predicted(prepared, logits.cpu(), histogram.confidence, False, kept)


class _Shifted:
    """Places parts of a box into the volume."""

    def __init__(self, reducer: Reducer, box: tuple[slice, ...]) -> None:
        self.reducer, self.box = reducer, box

    def __call__(self, logits: Tensor, where: tuple[slice, ...]) -> None:
        moved = [
            slice(w.start + b.start, w.stop + b.start) for w, b in zip(where, self.box, strict=True)
        ]
        self.reducer(logits, tuple(moved))


def _foreground(inputs: Tensor, windows: Windows) -> tuple[slice, ...] | None:
    """Box of all voxels above the lowest value, at least a window wide; None: everything."""
    above = (inputs[0] > inputs.min()).any(0)
    box = []
    for axis, (size, roi) in enumerate(zip(above.shape, windows.roi_size, strict=True)):
        others = [a for a in range(3) if a != axis]
        lines = torch.nonzero(above.amax(others)).flatten()
        if not len(lines):
            return None
        start, stop = int(lines[0]), int(lines[-1]) + 1
        missing = max((roi if roi > 0 else size) - (stop - start), 0)
        start = max(start - missing // 2, 0)
        box.append(slice(start, min(max(stop, start + (roi if roi > 0 else size)), size)))
    return tuple(box)
