"""Sizes of a layer, and convolutions with its geometry and other channels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from .convolutions import TRANSPOSED, plain_class

_CONVOLUTION: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@dataclass(frozen=True)
class Shape:
    """Sizes that decide which kinds of dendrites a layer may have, and what they cost.

    Attributes:
        inputs: channels in.
        outputs: channels out.
        taps: of the kernel, 27 for 3×3×3.
        groups: of the layer.
        transposed: whether it is a transposed convolution.
    """

    inputs: int
    outputs: int
    taps: int
    groups: int
    transposed: bool

    @classmethod
    def of(cls, layer: Any) -> Shape:
        """Of a convolution, transposed convolution, Linear or MONAI ``Convolution`` block."""
        layer = getattr(layer, "conv", layer)
        if isinstance(layer, nn.Linear):
            return cls(layer.in_features, layer.out_features, 1, 1, False)
        taps = math.prod(layer.kernel_size)
        transposed = isinstance(layer, TRANSPOSED)
        return cls(layer.in_channels, layer.out_channels, taps, layer.groups, transposed)

    def weights(self) -> int:
        """Of the layer itself, without its bias."""
        return self.taps * self.inputs * self.outputs // self.groups


def spatial(layer: Any, inputs: int, outputs: int, groups: int, bias: bool) -> nn.Module:
    """A convolution with the layer's kernel and geometry, and other channels."""
    names = ["stride", "padding", "dilation"]
    names += ["output_padding"] if isinstance(layer, TRANSPOSED) else ["padding_mode"]
    options = {name: getattr(layer, name) for name in names}
    size = layer.kernel_size
    made = plain_class(layer)
    return made(inputs, outputs, size, groups=groups, bias=bias, **options, **like(layer))


def pointwise(layer: Any, inputs: int, outputs: int, bias: bool, **options: Any) -> nn.Module:
    """A convolution of one tap in the layer's number of dimensions."""
    convolution = _CONVOLUTION[len(layer.kernel_size)]
    return convolution(inputs, outputs, 1, bias=bias, **options, **like(layer))


def like(layer: Any) -> dict[str, Any]:
    """Device and dtype of a layer, as arguments of a new one."""
    return {"device": layer.weight.device, "dtype": layer.weight.dtype}


def middle_pads(layer: Any) -> list[tuple[int, int]]:
    """What makes the first output of a pointwise convolution see the middle of the first window."""
    pads = []
    for axis, size in enumerate(layer.kernel_size):
        dilation = layer.dilation[axis]
        reach = dilation * (size - 1)
        before = after = 0
        if layer.padding == "same":
            before, after = reach // 2, reach - reach // 2
        elif not isinstance(layer.padding, str):
            before = after = layer.padding[axis]
        middle = dilation * ((size - 1) // 2)
        pads.append((before - middle, after - (reach - middle)))
    return pads


def transposed_pads(layer: Any) -> list[tuple[int, int]]:
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
