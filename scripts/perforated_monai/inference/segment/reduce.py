"""Finished parts of the logits -> labels, confidence and, when asked for, probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from monai.transforms import AsDiscreted, Compose
from torch import Tensor

from ...errors import UserError
from .pipeline import PRED
from .window import Where

_BINS = 10_000
_TORCH = {np.uint8: torch.uint8, np.uint16: torch.int32}


@dataclass(frozen=True)
class Confidence:
    """Probability of the chosen label over the voxels of all structures; None without any."""

    mean: float | None
    lowest_decile: float | None


class Reducer:
    """Takes logits part by part (``consume`` of ``stitch_windows``) and keeps labels only.

    Args:
        size: voxels of the volume.
        discretise: the bundle's transforms from logits to labels, voxel by voxel.
        outputs: channels of the network; decides between ``uint8`` and ``uint16`` labels.
        sigmoid: channels are independent; otherwise one softmax over all.
        probabilities: keep them too, float32 ``(K, X, Y, Z)``.

    Attributes:
        labels: ``(1, X, Y, Z)`` label values, or ``(K, X, Y, Z)`` of 0 and 1.
    """

    def __init__(
        self,
        size: tuple[int, ...],
        discretise: Compose,
        outputs: int,
        sigmoid: bool = False,
        probabilities: bool = False,
    ) -> None:
        self.size, self.discretise, self.sigmoid = size, discretise, sigmoid
        self.dtype = label_dtype(outputs - 1)
        self._plain = is_plain_argmax(discretise)
        self.labels: np.ndarray | None = None
        shape = (outputs, *size)
        self.probabilities = np.zeros(shape, np.float32) if probabilities else None
        self._histogram = ConfidenceHistogram()

    def __call__(self, logits: Tensor, where: Where) -> None:
        """Take logits ``(K, dx, dy, dz)`` of one place."""
        refuse_not_finite(logits)
        if self._plain:
            labels = first_largest(logits, self.dtype).cpu()
        else:
            labels = torch.as_tensor(self.discretise({PRED: logits})[PRED].cpu())
        if self.labels is None:
            self.labels = np.zeros((labels.shape[0], *self.size), self.dtype)
        self.labels[(slice(None), *where)] = labels.numpy()
        self._histogram.add(logits, labels, self.sigmoid)
        if self.probabilities is not None:
            self.probabilities[(slice(None), *where)] = activated(logits, self.sigmoid).cpu()

    @property
    def confidence(self) -> Confidence:
        """Over everything taken so far."""
        return self._histogram.confidence


class ConfidenceHistogram:
    """Mean and lowest decile of a confidence in [0, 1], to 1e-4, without keeping the values."""

    def __init__(self) -> None:
        self.counts = np.zeros(_BINS, np.int64)
        self.total = 0.0

    def add(self, logits: Tensor, labels: Tensor, sigmoid: bool) -> None:
        """Take logits ``(K, ...)`` and labels ``(1 or K, ...)`` of the same voxels."""
        if sigmoid and labels.shape == logits.shape:
            values = torch.sigmoid(logits[labels.to(logits.device) > 0].float())
        else:
            chosen = logits[:, (labels > 0).any(0).to(logits.device)]
            values = activated(chosen, sigmoid).amax(0)
        values = values.clamp(0, 1).cpu()
        self.counts += torch.histc(values, _BINS, 0, 1).long().numpy()
        self.total += float(values.sum(dtype=torch.float64))

    @property
    def confidence(self) -> Confidence:
        """Mean, and the upper edge of the bin in which the lowest tenth ends."""
        count = int(self.counts.sum())
        if not count:
            return Confidence(None, None)
        last = int(np.searchsorted(np.cumsum(self.counts), 0.1 * count))
        return Confidence(self.total / count, (last + 1) / _BINS)


def is_plain_argmax(discretise: Compose) -> bool:
    """Whether these transforms do nothing but take the argmax over channels."""
    steps = discretise.transforms
    if len(steps) != 1 or not isinstance(steps[0], AsDiscreted):
        return False
    step = steps[0]
    others = (*step.to_onehot, *step.threshold, *step.rounding)
    return all(step.argmax) and all(v is None or v is False for v in others)


def first_largest(logits: Tensor, dtype: type[np.unsignedinteger]) -> Tensor:
    """Argmax over channels, ``(K, ...) -> (1, ...)``: the first of equals, as ``torch.argmax``.

    By comparison of whole channels: along the first axis ``torch.argmax`` (2.13, CPU) took 200 ns a
    voxel, a tenth of a case's time, and gives eight bytes a voxel.
    """
    best = logits[0].clone()
    labels = torch.zeros(best.shape, dtype=_TORCH[dtype], device=logits.device)
    for k in range(1, logits.shape[0]):
        labels.masked_fill_(logits[k] > best, k)
        torch.maximum(best, logits[k], out=best)
    return labels[None]


def activated(logits: Tensor, sigmoid: bool) -> Tensor:
    """Logits ``(K, ...)`` -> probabilities."""
    return torch.sigmoid(logits.float()) if sigmoid else torch.softmax(logits.float(), 0)


def refuse_not_finite(logits: Tensor) -> None:
    """Argmax would pick the NaN class everywhere.

    Raises:
        UserError: for NaN or Inf.
    """
    # NaN and Inf survive a sum, which is cheaper; a sum may overflow where no value does.
    if not bool(torch.isfinite(logits.sum())) and not bool(torch.isfinite(logits).all()):
        msg = "The network's output must be finite; it holds NaN or Inf. Check weights and image."
        raise UserError(msg)


def label_dtype(largest: int) -> type[np.unsignedinteger]:
    """Smallest of uint8 and uint16 that holds a label.

    Raises:
        UserError: for a label above 65535.
    """
    if largest > np.iinfo(np.uint16).max:
        msg = f"label values must not exceed 65535; the label set goes to {largest}."
        raise UserError(msg)
    return np.uint8 if largest <= np.iinfo(np.uint8).max else np.uint16
