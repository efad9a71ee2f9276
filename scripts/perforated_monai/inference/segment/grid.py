"""Predictions back on the grid of their volume, by the bundle's own postprocessing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd
from torch import Tensor

from ...errors import UserError
from .pipeline import IMAGE, PRED, Pipeline
from .reduce import label_dtype
from .states import Predicted, Prepared, Segmentation

_PROBABILITY = "probability"


def restore(predicted: Predicted, pipeline: Pipeline, outputs: int) -> Segmentation:
    """Labels, or logits, on the network's grid -> a mask on the volume's.

    Args:
        predicted: one volume.
        pipeline: the bundle's transforms, of this thread.
        outputs: channels of the network; decides between ``uint8`` and ``uint16`` labels.

    Raises:
        UserError: when the bundle's postprocessing does not lead back to the volume's grid.
    """
    prepared = predicted.prepared
    pred = MetaTensor(predicted.pred, meta=prepared.data[IMAGE].meta, applied_operations=[])
    after = pipeline.after
    if not predicted.reduced or pipeline.discretise is None:
        steps = pipeline.discretise.transforms if pipeline.discretise else ()
        after = Compose([*steps, *pipeline.after.transforms])
    labels = _on_grid(after({**prepared.data, PRED: pred})[PRED], prepared)
    mask = _as_labels(labels, outputs)
    probabilities = None
    if predicted.probabilities is not None:
        probabilities = _inverted(predicted.probabilities, prepared, pipeline)
    return Segmentation(_channels_last(mask), predicted.confidence, probabilities, prepared.notes)


def forget_voxels(data: dict[str, Any]) -> None:
    """Keep of other volumes what inverting needs: their history, not their voxels."""
    for key, value in data.items():
        if key != IMAGE and isinstance(value, MetaTensor):
            data[key] = MetaTensor(
                torch.empty(0), meta=value.meta, applied_operations=value.applied_operations
            )


def _inverted(probabilities: np.ndarray, prepared: Prepared, pipeline: Pipeline) -> np.ndarray:
    """Probabilities ``(K, x, y, z)`` on the network's grid -> ``(X, Y, Z, K)`` on the input's."""
    inverter = pipeline.inverter
    tensor: Any = MetaTensor(torch.as_tensor(probabilities), meta=prepared.data[IMAGE].meta)
    if inverter is not None:
        invert = Invertd(
            _PROBABILITY, inverter.transform, inverter.orig_keys[0], nearest_interp=False
        )
        data: dict[Any, Any] = dict(prepared.data)
        tensor = invert({**data, _PROBABILITY: tensor})[_PROBABILITY]
    return np.moveaxis(_on_grid(tensor, prepared), 0, -1)


def _on_grid(tensor: Tensor, prepared: Prepared) -> np.ndarray:
    """As an array, when it lies on the input's grid."""
    affine = getattr(tensor, "affine", None)
    moved = affine is not None and not np.allclose(affine, prepared.affine, atol=1e-3)
    if tuple(tensor.shape[1:]) != tuple(prepared.shape) or moved:
        msg = (
            f"the bundle's postprocessing must lead back to the input's grid {prepared.shape}; it "
            f"gives {tuple(tensor.shape[1:])}. Add Invertd to it."
        )
        raise UserError(msg)
    return torch.as_tensor(tensor).cpu().numpy()


def _as_labels(values: np.ndarray, outputs: int) -> np.ndarray:
    """As whole numbers. Logits or probabilities cut to them would look like a mask and be none."""
    largest = values.max(initial=0)
    if np.isfinite(largest):
        with np.errstate(invalid="ignore"):  # what does not fit is found right below
            mask = values.astype(label_dtype(max(outputs - 1, int(largest))))
        if np.array_equal(mask, values):
            return mask
    wrong = values[~((values >= 0) & (values % 1 == 0))]
    msg = (
        "the bundle's postprocessing must end in labels, whole numbers from 0 on; it "
        f"gives {float(wrong[0]):.4g} in a voxel. Add AsDiscreted behind Invertd."
    )
    raise UserError(msg)


def _channels_last(labels: np.ndarray) -> np.ndarray:
    return labels[0] if labels.shape[0] == 1 else np.moveaxis(labels, 0, -1)
