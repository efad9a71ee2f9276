"""``Segmenter``: a bundle loaded once, for any number of volumes and threads."""

from __future__ import annotations

import dataclasses
import math
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd
from monai.transforms.utils import reset_ops_id
from torch import Tensor

from ..errors import UserError
from .bundle import IMAGE, PRED, Bundle, Pipeline, default_device, load_bundle
from .engine import Predictor, make_predictor
from .memory import activation_bytes, as_text, free_memory
from .ranges import outside_ranges
from .read import Scan, make_scan
from .reduce import Confidence, ConfidenceHistogram, Reducer, label_dtype, refuse_not_finite
from .window import NotStitchableError, Windows, buffer_bytes, stitch_windows

_PROBABILITY = "probability"


@dataclass
class Segmentation:
    """A mask on the grid of the volume it was made from.

    Attributes:
        labels: ``(X, Y, Z)`` of label values, or ``(X, Y, Z, K)`` of 0 and 1 where the bundle's
            channels are independent.
        confidence: of the chosen labels, over all structures, on the network's grid.
        probabilities: ``(X, Y, Z, K)`` float32, when asked for.
        notes: what was done in another way than usual, and why.
    """

    labels: np.ndarray
    confidence: Confidence
    probabilities: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)


@dataclass
class Prepared:
    """A volume after the bundle's preprocessing: what the network and the inverse need."""

    data: dict[str, Any]
    shape: tuple[int, ...]
    affine: np.ndarray
    notes: list[str] = field(default_factory=list)


@dataclass
class Predicted:
    """Labels ``(1 or K, x, y, z)`` on the network's grid, or logits where the bundle wants them."""

    prepared: Prepared
    pred: Tensor
    confidence: Confidence
    reduced: bool
    probabilities: np.ndarray | None


def segment_volume(
    array: np.ndarray, affine: np.ndarray, bundle: str | Path | Bundle
) -> Segmentation:
    """Segment one volume; make a ``Segmenter`` to do several.

    Args:
        array: ``(X, Y, Z)``, or ``(C, X, Y, Z)`` for a bundle of several channels.
        affine: ``(4, 4)``, voxel to mm in RAS, as NIfTI has it.
        bundle: folder of the bundle.

    Raises:
        UserError: see ``Segmenter``.
    """
    return Segmenter(bundle)(array, affine)


class Segmenter:
    """Segments volumes as the bundle's ``inference.json`` says; safe to share between threads.

    Args:
        bundle: folder of the bundle.
        engine: what runs the network: ``torch`` or ``torchscript``.
        device: ``cpu``, ``cuda:0``, ...; the first GPU or the CPU when not given.
        overlap: of the windows; the bundle's own when not given.
        tta: average over mirror images, along the bundle's ``mirror_axes``.
        probabilities: keep them; costs 4 bytes a voxel and channel.
        allow_out_of_range: volumes unlike the training volumes get a note, not a refusal.
        allow_phantom_weights: use weights that were trained on synthetic phantoms; every volume
            gets a note.
        memory_limit: bytes that a volume may take; what is free when not given.

    Raises:
        UserError: for an unusable bundle or option; from calls, for an unusable volume.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle,
        *,
        engine: str = "torch",
        device: str | torch.device | None = None,
        overlap: float | None = None,
        tta: bool = False,
        probabilities: bool = False,
        allow_out_of_range: bool = False,
        allow_phantom_weights: bool = False,
        memory_limit: int | None = None,
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else load_bundle(bundle, overlap)
        if self.bundle.phantom_weights and not allow_phantom_weights:
            msg = (
                f"{self.bundle.folder} was trained on synthetic phantoms, not for patients. Train "
                "it on patient data, or try it out with --allow-phantom-weights."
            )
            raise UserError(msg)
        self.device = _device(device)
        self.probabilities, self.memory_limit = probabilities, memory_limit
        self.allow_out_of_range = allow_out_of_range
        self.settings: dict[str, Any] = {"engine": engine, "overlap": overlap, "tta": tta}
        self.predict = make_predictor(self.bundle, engine, self.device, tta)
        self._fallback: Predictor | None = None
        self._activations = activation_bytes(self.bundle.first_width())
        self._local = threading.local()

    def __call__(self, array: np.ndarray, affine: np.ndarray) -> Segmentation:
        """Segment ``(X, Y, Z)`` or ``(C, X, Y, Z)`` with its ``(4, 4)`` affine (RAS, mm)."""
        return self.restore(self.infer(self.prepare(make_scan(array, affine))))

    # The three steps of a call, so that a folder's cases can overlap.

    def prepare(self, scan: Scan) -> Prepared:
        """Check a volume against the bundle and preprocess it."""
        if scan.image.shape[0] != self.bundle.channels:
            msg = f"the bundle needs {self.bundle.channels} channels; got {scan.image.shape[0]}."
            raise UserError(msg)
        notes = [*scan.notes, *self.check_range(scan.shape, scan.affine)]
        if self.bundle.phantom_weights:
            notes.append("weights trained on synthetic phantoms, not for patients")
        pipeline = self._pipeline()
        data = pipeline.before({IMAGE: scan.image})
        reset_ops_id(data)  # another thread inverts, with transforms of its own
        if pipeline.discretise and all(isinstance(t, Invertd) for t in pipeline.after.transforms):
            _forget_voxels(data)
        return Prepared(data, scan.shape, scan.affine, notes)

    def check_memory(self, voxels: int) -> None:
        """Refuse what cannot be read and preprocessed: a volume is copied three times as float32.

        Raises:
            UserError: naming what it takes and what is free.
        """
        need, free = 3 * 4 * voxels * self.bundle.channels, self._free()
        if free is not None and need > free:
            msg = f"it needs {as_text(need)} of memory; {as_text(free)} are free. Crop it."
            raise UserError(msg)

    def check_range(self, shape: tuple[int, ...], affine: np.ndarray) -> list[str]:
        """Notes about a volume unlike the training volumes.

        Raises:
            UserError: for such a volume, unless they are allowed.
        """
        reason = outside_ranges(shape, affine, self.bundle.ranges)
        if reason and not self.allow_out_of_range:
            msg = f"{reason}. Crop or resample it, or use --allow-out-of-range."
            raise UserError(msg)
        return [f"out of range: {reason}"] if reason else []

    def infer(self, prepared: Prepared) -> Predicted:
        """Run the network over a prepared volume."""
        pipeline, windows = self._pipeline(), self.bundle.windows()
        image = prepared.data[IMAGE]
        inputs = torch.as_tensor(image)[None]
        if pipeline.discretise is None or windows is None:
            prepared.notes.append(
                "the bundle needs whole logits: MONAI's own path, with its memory"
            )
            return self._whole(prepared, inputs, pipeline)
        windows = self._fitted(windows, prepared, tuple(inputs.shape[2:]))
        try:
            reducer = self._stitched(inputs, windows, pipeline, prepared.notes)
        except NotStitchableError:
            prepared.notes.append("the network changes the size of windows: MONAI's own path")
            return self._whole(prepared, inputs, pipeline)
        labels = torch.as_tensor(reducer.labels)
        return Predicted(prepared, labels, reducer.confidence, True, reducer.probabilities)

    def restore(self, predicted: Predicted) -> Segmentation:
        """Bring a prediction back to the grid of its volume by the bundle's postprocessing."""
        prepared, pipeline = predicted.prepared, self._pipeline()
        image = prepared.data[IMAGE]
        pred = MetaTensor(predicted.pred, meta=image.meta, applied_operations=[])
        data = {**prepared.data, PRED: pred}
        after = pipeline.after
        if not predicted.reduced or pipeline.discretise is None:
            steps = pipeline.discretise.transforms if pipeline.discretise else ()
            after = Compose([*steps, *pipeline.after.transforms])
        labels = _on_grid(after(data)[PRED], prepared)
        dtype = label_dtype(max(self.bundle.outputs - 1, int(labels.max(initial=0))))
        probabilities = None
        if predicted.probabilities is not None:
            probabilities = _inverted(predicted.probabilities, prepared, pipeline)
        return Segmentation(
            _channels_last(labels.astype(dtype)),
            predicted.confidence,
            probabilities,
            prepared.notes,
        )

    def _pipeline(self) -> Pipeline:
        if not hasattr(self._local, "pipeline"):
            self._local.pipeline = self.bundle.pipeline()
        return self._local.pipeline

    def _free(self) -> int | None:
        return self.memory_limit if self.memory_limit is not None else free_memory()

    def _fitted(self, windows: Windows, prepared: Prepared, size: tuple[int, ...]) -> Windows:
        """Fewer windows at a time where memory is short; never one at a time on a CPU without need.

        Eager convolutions at batch 1 take a slow path on a CPU (notes of ATen's ``use_mkldnn``).
        """
        if self.device.type == "cpu" and windows.sw_batch_size == 1:
            windows = dataclasses.replace(windows, sw_batch_size=2)
        if self.device.type != "cpu":
            return windows
        window = math.prod(s if r <= 0 else r for r, s in zip(windows.roi_size, size, strict=True))
        held = buffer_bytes(size, windows, self.bundle.outputs) + math.prod(size)
        free = self._free()
        for batch in range(windows.sw_batch_size, 0, -1):
            need = held + batch * window * self._activations
            if free is None or need <= free:
                break
        else:
            msg = f"it needs {as_text(need)} of memory; {as_text(free or 0)} are free. Crop it."
            raise UserError(msg)
        if batch < windows.sw_batch_size:
            prepared.notes.append(
                f"memory is short ({as_text(free or 0)}): {batch} windows at a time, not "
                f"{windows.sw_batch_size}"
            )
        return dataclasses.replace(windows, sw_batch_size=batch)

    def _stitched(
        self, inputs: Tensor, windows: Windows, pipeline: Pipeline, notes: list[str]
    ) -> Reducer:
        """On the device; out of its memory: sums on the CPU; still: everything on the CPU."""
        cpu = torch.device("cpu")
        ladder = [(self.device, self.device), (self.device, cpu), (cpu, cpu)]
        for device, buffers in dict.fromkeys(ladder):
            try:
                return self._run(inputs, windows, pipeline, device, buffers)
            except torch.OutOfMemoryError:
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                where = "its sums" if buffers != cpu else "the network"
                notes.append(f"{device} out of memory: {where} moved to the CPU")
        msg = "it does not fit into the memory of device or CPU. Crop or resample it."
        raise UserError(msg)

    def _run(
        self,
        inputs: Tensor,
        windows: Windows,
        pipeline: Pipeline,
        device: torch.device,
        buffers: torch.device,
    ) -> Reducer:
        assert pipeline.discretise is not None
        size = tuple(inputs.shape[2:])
        reducer = Reducer(
            size, pipeline.discretise, self.bundle.outputs, pipeline.sigmoid, self.probabilities
        )
        predict = self.predict
        if device != self.device:
            predict = self._fallback = self._fallback or make_predictor(
                self.bundle, self.settings["engine"], device, self.settings["tta"]
            )
        box = _foreground(inputs, windows) if self.bundle.skip_empty_border else None
        if box is None:
            stitch_windows(inputs, predict, reducer, windows, device, buffers)
        else:
            part = inputs[(slice(None), slice(None), *box)]
            stitch_windows(part, predict, _Shifted(reducer, box), windows, device, buffers)
        return reducer

    def _whole(self, prepared: Prepared, inputs: Tensor, pipeline: Pipeline) -> Predicted:
        with torch.no_grad():
            logits = self.bundle.inferer(inputs.to(self.device), self.predict)
        logits = torch.as_tensor(logits[0] if isinstance(logits, (list, tuple)) else logits)[0]
        refuse_not_finite(logits)
        histogram = ConfidenceHistogram()
        labels = logits > 0 if pipeline.sigmoid else logits.argmax(0, keepdim=True)
        histogram.add(logits, labels, pipeline.sigmoid)
        probabilities = None
        if self.probabilities:
            active = torch.sigmoid(logits) if pipeline.sigmoid else torch.softmax(logits, 0)
            probabilities = active.float().cpu().numpy()
        return Predicted(prepared, logits.cpu(), histogram.confidence, False, probabilities)


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


def _forget_voxels(data: dict[str, Any]) -> None:
    """Keep of other volumes what inverting needs: their history, not their voxels."""
    for key, value in data.items():
        if key != IMAGE and isinstance(value, MetaTensor):
            data[key] = MetaTensor(
                torch.empty(0), meta=value.meta, applied_operations=value.applied_operations
            )


def _inverted(probabilities: np.ndarray, prepared: Prepared, pipeline: Pipeline) -> np.ndarray:
    """Probabilities ``(K, x, y, z)`` on the network's grid -> ``(X, Y, Z, K)`` on the input's."""
    found = pipeline.inverter
    tensor: Any = MetaTensor(torch.as_tensor(probabilities), meta=prepared.data[IMAGE].meta)
    if found is not None:
        invert = Invertd(_PROBABILITY, found.transform, found.orig_keys[0], nearest_interp=False)
        data: dict[Any, Any] = dict(prepared.data)
        tensor = invert({**data, _PROBABILITY: tensor})[_PROBABILITY]
    return np.moveaxis(_on_grid(tensor, prepared), 0, -1)


def _on_grid(tensor: Tensor, prepared: Prepared) -> np.ndarray:
    """As an array, when it lies on the input's grid.

    Raises:
        UserError: when the bundle's postprocessing does not lead back to it.
    """
    affine = getattr(tensor, "affine", None)
    moved = affine is not None and not np.allclose(affine, prepared.affine, atol=1e-3)
    if tuple(tensor.shape[1:]) != tuple(prepared.shape) or moved:
        msg = (
            f"the bundle's postprocessing must lead back to the input's grid {prepared.shape}; it "
            f"gives {tuple(tensor.shape[1:])}. Add Invertd to it."
        )
        raise UserError(msg)
    return torch.as_tensor(tensor).cpu().numpy()


def _channels_last(labels: np.ndarray) -> np.ndarray:
    return labels[0] if labels.shape[0] == 1 else np.moveaxis(labels, 0, -1)


def _device(device: str | torch.device | None) -> torch.device:
    try:
        found = torch.device(device) if device is not None else default_device()
    except RuntimeError as error:
        msg = f"device must be cpu, cuda or cuda:N; got {device!r} ({str(error).splitlines()[0]})."
        raise UserError(msg) from None
    if found.type == "cuda" and not torch.cuda.is_available():
        msg = f"device {device!r} needs a GPU; torch finds none. Use --device cpu."
        raise UserError(msg)
    return found
