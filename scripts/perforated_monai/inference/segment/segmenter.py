"""``Segmenter``: a bundle loaded once, for any number of volumes and threads."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Invertd
from monai.transforms.utils import reset_ops_id
from torch import Tensor

from ..._version import __version__
from ...errors import UserError
from ...files import sha256
from ..patches import cut_batches
from ..scan import Scan, make_scan
from .ensemble import load_bundles
from .grid import forget_voxels, restore
from .infer import Predictor, fit_windows, run_whole, run_windows
from .limits import activation_bytes, as_text, free_memory, outside_ranges
from .pipeline import IMAGE, InferenceBundle, Pipeline
from .predictor import engine_device, load_engine, mirrored, needs_no_check, on_device
from .reduce import Reducer
from .states import Predicted, Prepared, Segmentation
from .window import NotStitchableError, Windows

_SHARED_BYTES = 2 * 2**30  # of activations, for all volumes that are in the network at a time
_COMPARED_VOXELS = 1_000_000  # on which an engine is compared with torch
_COMPARED_WINDOWS = 8


def segment_volume(
    array: np.ndarray, affine: np.ndarray, bundle: str | Path | InferenceBundle
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
        bundle: folder of the bundle; several are an ensemble, see ``load_bundles``.
        engine: what runs the network: a key of ``inference.engines.ENGINES``, or ``auto``, the one
            that suits network and device. Engines but ``torch`` are loaded with the first volumes,
            which check them.
        device: ``cpu``, ``cuda:0``, ...; the first GPU or the CPU when not given.
        overlap: of the windows; the bundle's own when not given.
        tta: mean of the logits over mirror images, along the bundle's ``mirror_axes``.
        probabilities: keep them; costs 4 bytes a voxel and channel.
        allow_out_of_range: volumes unlike the training volumes get a note, not a refusal.
        allow_phantom_weights: use weights that were trained on synthetic phantoms; every volume
            gets a note.
        memory_limit: bytes that a volume may take; what is free when not given.

    Attributes:
        predict: ``(B, C, *roi) -> (B, K, *roi)`` logits; None until the engine is loaded.
        reason: how the engine compares with float32 torch.

    Raises:
        UserError: for an unusable bundle or option; from calls, for an unusable volume.
    """

    def __init__(
        self,
        bundle: str | Path | Sequence[str | Path] | InferenceBundle,
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
        if isinstance(bundle, (str, Path)):
            bundle = [bundle]
        loaded = bundle if isinstance(bundle, InferenceBundle) else load_bundles(bundle, overlap)
        self.bundle = loaded
        if self.bundle.phantom_weights and not allow_phantom_weights:
            msg = (
                f"{self.bundle.name} was trained on synthetic phantoms, not for patients. Train "
                "it on patient data, or try it out with --allow-phantom-weights."
            )
            raise UserError(msg)
        self.device = engine_device(engine, device)
        if tta and not self.bundle.mirror_axes:
            msg = (
                f"--tta needs segment.mirror_axes in metadata.json of {self.bundle.name}: "
                "it names the axes along which training mirrored."
            )
            raise UserError(msg)
        if probabilities and self.bundle.postfix == "prob":
            msg = (
                "--probabilities needs an output_postfix in inference.json that is not prob: masks "
                "and probabilities would have one name. Change it, or leave the flag out."
            )
            raise UserError(msg)
        self.probabilities, self.memory_limit = probabilities, memory_limit
        self.allow_out_of_range = allow_out_of_range
        self.settings: dict[str, Any] = {"engine": engine, "overlap": overlap, "tta": tta}
        self._code = self.bundle.own_code()  # as it was when the bundle was loaded
        self.predict: Predictor | None = None
        self.reason = ""
        self._fallback: Predictor | None = None
        self._activations = activation_bytes(self.bundle.first_width())
        self._local, self._loading = threading.local(), threading.Lock()
        if needs_no_check(self.bundle, engine, self.device):
            self.settings["engine"] = "torch"
            self.predict = self._averaged(on_device(self.bundle, self.device))

    def __call__(self, array: np.ndarray, affine: np.ndarray) -> Segmentation:
        """Segment ``(X, Y, Z)`` or ``(C, X, Y, Z)`` with its ``(4, 4)`` affine (RAS, mm)."""
        return self.restore(self.infer(self.prepare(make_scan(array, affine))))

    # The steps of a call, so that a folder's cases can overlap.

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
        reset_ops_id(data)  # another thread may invert, with transforms of its own
        if pipeline.discretise and all(isinstance(t, Invertd) for t in pipeline.after.transforms):
            forget_voxels(data)
        return Prepared(data, scan.shape, scan.affine, notes)

    def load(self, first: Sequence[Prepared]) -> None:
        """Load the engine, if it is not; ``first`` are the volumes that it is checked on."""
        with self._loading:
            if self.predict is not None:
                return
            sizes = self._window(first[0].data[IMAGE].shape[1:])
            count = max(min(_COMPARED_WINDOWS, _COMPARED_VOXELS // math.prod(sizes)), 2)
            images = [_plain(p.data[IMAGE]) for p in first]
            batches = cut_batches(images, (self.bundle.channels, *sizes), count)
            words = f"{sum(map(len, batches))} windows of {len(first)} scans"
            loaded = load_engine(self.bundle, self.settings["engine"], self.device, batches, words)
            self.settings["engine"], self.device = loaded.name, loaded.device
            self.reason = loaded.reason
            self.predict = self._averaged(loaded.predict)

    def infer(self, prepared: Prepared) -> Predicted:
        """Run the network over a prepared volume."""
        if self.predict is None:
            self.load([prepared])
        pipeline, windows = self._pipeline(), self.bundle.windows()
        inputs = _plain(prepared.data[IMAGE])[None]
        if pipeline.discretise is None or windows is None:
            prepared.notes.append(
                "the bundle needs whole logits: MONAI's own path, with its memory"
            )
            return self._whole(prepared, inputs, pipeline)
        try:
            return self._stitched(prepared, inputs, pipeline, windows)
        except NotStitchableError:
            prepared.notes.append("the network changes the size of windows: MONAI's own path")
            return self._whole(prepared, inputs, pipeline)

    def restore(self, predicted: Predicted) -> Segmentation:
        """Bring a prediction back to the grid of its volume by the bundle's postprocessing."""
        return restore(predicted, self._pipeline(), self.bundle.outputs)

    def settings_hash(self, series: str) -> str:
        """Hash of everything but the input that decides what a case gives."""
        bundle = self.bundle
        parts = (
            *(bundle.weights_sha256, bundle.config_sha256, sorted(self.settings.items())),
            *(self.device.type, self.probabilities, self.allow_out_of_range),
            *(series, __version__, self._code),
            *(sorted(bundle.labels.items()), sorted(bundle.channel_names.items()), bundle.amp),
            *(bundle.mirror_axes, bundle.skip_empty_border, bundle.phantom_weights),
        )
        return sha256(repr(parts).encode())[:16]

    def at_a_time(self, workers: int) -> int:
        """How many volumes may be in the network at a time: on a GPU one, else as memory lets."""
        if self.device.type != "cpu":
            return 1
        windows = self.bundle.windows()
        if windows is None or min(windows.roi_size) <= 0:
            return 1
        need = windows.sw_batch_size * math.prod(windows.roi_size) * self._activations
        return max(min(workers, torch.get_num_threads(), _SHARED_BYTES // need), 1)

    def check_memory(self, voxels: int) -> None:
        """Refuse what cannot be read and preprocessed: a volume is copied three times as float32.

        Raises:
            UserError: naming what it takes and what is free.
        """
        need, free = 3 * 4 * voxels * self.bundle.channels, self._free()
        if free is not None and need > free:
            msg = f"it needs {as_text(need)} of memory; {as_text(free)} are free. Crop it."
            raise UserError(msg)

    def most_voxels(self) -> int | None:
        """Of one channel, that can be read and preprocessed; None when unknown."""
        free = self._free()
        return None if free is None else free // (3 * 4 * self.bundle.channels)

    def check_range(self, shape: tuple[int, ...], affine: np.ndarray) -> list[str]:
        """Notes about a volume unlike the training volumes.

        Raises:
            UserError: for such a volume, unless they are allowed.
        """
        reasons = (outside_ranges(shape, affine, r) for r in self.bundle.every_range())
        reason = next(filter(None, reasons), "")
        if reason and not self.allow_out_of_range:
            msg = f"{reason}. Crop or resample it, or use --allow-out-of-range."
            raise UserError(msg)
        return [f"out of range: {reason}"] if reason else []

    def _pipeline(self) -> Pipeline:
        if not hasattr(self._local, "pipeline"):
            self._local.pipeline = self.bundle.pipeline()
        return self._local.pipeline

    def _free(self) -> int | None:
        return self.memory_limit if self.memory_limit is not None else free_memory()

    def _averaged(self, predict: Predictor) -> Predictor:
        return mirrored(predict, self.bundle.mirror_axes) if self.settings["tta"] else predict

    def _predictor(self, device: torch.device) -> Predictor:
        """The engine, or torch on a device that it was not made for."""
        assert self.predict is not None
        if device == self.device:
            return self.predict
        if self._fallback is None:
            self._fallback = self._averaged(on_device(self.bundle, device))
        return self._fallback

    def _window(self, size: Sequence[int]) -> tuple[int, ...]:
        windows = self.bundle.windows()
        roi = windows.roi_size if windows else (0,) * len(size)
        return tuple(int(s if r <= 0 else r) for r, s in zip(roi, size, strict=True))

    def _stitched(
        self, prepared: Prepared, inputs: Tensor, pipeline: Pipeline, windows: Windows
    ) -> Predicted:
        size, bundle = tuple(inputs.shape[2:]), self.bundle
        discretise = pipeline.discretise
        assert discretise is not None
        if self.device.type == "cpu":
            windows, note = fit_windows(
                windows, size, bundle.outputs, self._activations, self._free()
            )
            prepared.notes += [note] if note else []

        def reducer() -> Reducer:
            return Reducer(size, discretise, bundle.outputs, pipeline.sigmoid, self.probabilities)

        done = run_windows(
            *(inputs, windows, reducer, self._predictor, self.device, prepared.notes),
            bundle.skip_empty_border,
        )
        labels = torch.as_tensor(done.labels)
        return Predicted(prepared, labels, done.confidence, True, done.probabilities)

    def _whole(self, prepared: Prepared, inputs: Tensor, pipeline: Pipeline) -> Predicted:
        predict = self._predictor(self.device)
        return run_whole(
            *(prepared, inputs, pipeline, self.bundle, predict, self.device, self.probabilities)
        )


def _plain(image: Any) -> Tensor:
    """Without MONAI's metadata, which every operation would carry along: 8 % of a case's time."""
    return torch.as_tensor(image).as_subclass(Tensor)
