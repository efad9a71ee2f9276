"""``make_dendrite``: one dendrite that is no copy of its layer, as a row of torch's own layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .kinds import Kind, Shape, middle_pads, resolve
from .layer import TRANSPOSED, plain_class


def make_dendrite(layer: Any, kind: Kind) -> Dendrite:
    """A dendrite of a layer with fresh weights, on the layer's device and with its dtype.

    With C_in and C_out channels and K taps in the layer's kernel:

    * ``depthwise``: one kernel for each channel, and a pointwise convolution over channels
      (depthwise separable: Howard et al., MobileNets, arXiv:1704.04861), for any C_in and C_out:
      K·min(C_in, C_out) + C_in·C_out weights. The kernel runs on the side with fewer channels; on
      that of the outputs for a transposed layer (K·C_out), whose maps are smaller before it.
    * ``pointwise``: the layer's kernel with its middle tap alone, C_in·C_out weights; for a
      transposed layer a pointwise convolution repeated over the voxels that one input voxel
      becomes (nearest neighbour).
    * ``grouped``: the layer's own kernel in ``groups`` groups, K·C_in·C_out / groups weights.
    * ``low_rank``: through ``rank`` channels: the layer's kernel on one side, a pointwise
      convolution on the other, whichever costs less; rank·(K·C_in + C_out) weights, or
      rank·(C_in + K·C_out). Linear: rank·(C_in + C_out).

    Stride, dilation, padding and output padding are the layer's.

    Args:
        layer: a convolution, transposed convolution or Linear.
        kind: not ``copy``; resolved here.

    Raises:
        UnfitError, TypeError: see ``resolve``.
        ValueError: for ``copy``.
    """
    if kind.name == "copy":
        msg = "A copy is made by copy.deepcopy."
        raise ValueError(msg)
    found = resolve(layer, kind)
    shape = Shape.of(layer)
    bias = layer.bias is not None
    if found.name == "grouped":
        stages = [_spatial(layer, shape.inputs, shape.outputs, found.groups, bias)]
    elif found.name == "pointwise":
        stages = _pointwise_stages(layer, shape, bias)
    else:
        stages = _two_stages(layer, shape, found.rank, bias)
    made = Dendrite(*stages)
    made.kind = found
    return made


class Dendrite(nn.Sequential):
    """One dendrite that is no copy: input and output shapes are its layer's own.

    Its last convolution has a bias where the layer has one. ``kind`` is resolved: nothing of it is
    left to be chosen.
    """

    kind: Kind

    def reset_parameters(self) -> None:
        """Draw all weights anew, each convolution in its own way."""
        for stage in self:
            reset: Any = getattr(stage, "reset_parameters", None)
            if reset is not None:
                reset()


class Shift(nn.Module):
    """Zeros around a map, or voxels less: ``pads`` as ``torch.nn.functional.pad`` takes them."""

    def __init__(self, pads: Sequence[int]) -> None:
        super().__init__()
        self.pads = list(pads)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.pads)


def _two_stages(layer: Any, shape: Shape, rank: int, bias: bool) -> list[nn.Module]:
    """Depthwise (rank 0), or low-rank."""
    if isinstance(layer, nn.Linear):
        first = nn.Linear(shape.inputs, rank, bias=False, **_like(layer))
        return [first, nn.Linear(rank, shape.outputs, bias=bias, **_like(layer))]
    kernel_first = shape.one_rank()[1] if rank else shape.depthwise_first()
    if kernel_first:
        middle = rank or shape.inputs
        spatial = _spatial(layer, shape.inputs, middle, 1 if rank else middle, False)
        return [spatial, _pointwise(layer, middle, shape.outputs, 1, bias)]
    middle = rank or shape.outputs
    spatial = _spatial(layer, middle, shape.outputs, 1 if rank else middle, bias)
    return [_pointwise(layer, shape.inputs, middle, 1, False), spatial]


def _spatial(layer: Any, inputs: int, outputs: int, groups: int, bias: bool) -> nn.Module:
    """A convolution with the layer's kernel and geometry, and other channels."""
    names = ["stride", "padding", "dilation"]
    names += ["output_padding"] if isinstance(layer, TRANSPOSED) else ["padding_mode"]
    options = {name: getattr(layer, name) for name in names}
    size = layer.kernel_size
    made = plain_class(layer)
    return made(inputs, outputs, size, groups=groups, bias=bias, **options, **_like(layer))


def _pointwise(layer: Any, inputs: int, outputs: int, stride: Any, bias: bool) -> nn.Module:
    convolution = _CONVOLUTION[len(layer.kernel_size)]
    return convolution(inputs, outputs, 1, stride=stride, bias=bias, **_like(layer))


_CONVOLUTION: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def _pointwise_stages(layer: Any, shape: Shape, bias: bool) -> list[nn.Module]:
    options = {"bias": bias, "groups": shape.groups, **_like(layer)}
    convolution = _CONVOLUTION[len(layer.kernel_size)]
    if shape.transposed:
        made = convolution(shape.inputs, shape.outputs, 1, **options)
        grown = nn.Upsample(scale_factor=tuple(float(s) for s in layer.stride), mode="nearest")
        return [made, grown, *_shift(_transposed_pads(layer))]
    made = convolution(shape.inputs, shape.outputs, 1, stride=layer.stride, **options)
    return [*_shift(middle_pads(layer)), made]


def _shift(pads: list[tuple[int, int]]) -> list[nn.Module]:
    """Nothing where nothing moves; ``pads`` hold both ends of each axis, the first axis first."""
    if not any(p for pair in pads for p in pair):
        return []
    return [Shift([p for pair in reversed(pads) for p in pair])]


def _transposed_pads(layer: Any) -> list[tuple[int, int]]:
    """From a map enlarged by the stride to the layer's output: its block in the kernel's middle."""
    pads = []
    for axis, size in enumerate(layer.kernel_size):
        stride, padding = layer.stride[axis], layer.padding[axis]
        reach = layer.dilation[axis] * (size - 1)
        before = -((stride - 1 - reach) // 2) - padding  # rounded up
        # The enlarged map has n·stride voxels, the output (n-1)·stride - 2·padding + reach + 1 + …
        total = reach + 1 + layer.output_padding[axis] - 2 * padding - stride
        pads.append((before, total - before))
    return pads


def _like(layer: Any) -> dict[str, Any]:
    return {"device": layer.weight.device, "dtype": layer.weight.dtype}
