"""``MobileUNet``: a UNet of MobileNetV3's inverted residuals; torch and MONAI layers only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.blocks import ChannelSELayer, Convolution
from monai.networks.layers import Conv
from torch import Tensor, nn

from ..dendrites.depthwise_conv import DepthwiseConv3d
from ..errors import UserError
from .checks import Stride, check_levels, check_patch, downsampling, whole_number

NORMS = ("instance", "batch")


class MobileUNet(nn.Module):
    """A UNet whose levels are inverted residuals with depthwise convolutions.

    Blocks are those of MobileNetV3 (Howard et al. 2019, https://arxiv.org/abs/1905.02244) in one
    to three dimensions, with instance normalisation unless ``norm`` says otherwise. As in MONAI's
    ``UNet`` the first level strides at once and the last one does not, so the whole network runs
    below full resolution.

    Args:
        spatial_dims: 1, 2 or 3.
        in_channels: of the image.
        out_channels: of the prediction.
        channels: of each level, at least two.
        strides: of each level but the last; a number, or one an axis.
        expansion: how many times wider a block is inside than at its output.
        reduction: how many times narrower squeeze-and-excitation is than the block inside; 0
            leaves it out.
        blocks: inverted residuals of each level.
        norm: ``instance``, or ``batch``, whose statistics stand after training: a window or a whole
            volume is then normalised alike, and inference engines merge it into the convolutions.

    Shapes: ``(B, in_channels, *space) -> (B, out_channels, *space)``; sizes of space are multiples
    of the product of strides.

    Raises:
        UserError: arguments that do not fit together, or a patch of another size.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int],
        strides: Sequence[Stride],
        expansion: int = 3,
        reduction: int = 4,
        blocks: int = 1,
        norm: str = "instance",
    ) -> None:
        super().__init__()
        rows = check_levels("MobileUNet", spatial_dims, channels, strides)
        numbers = {"in_channels": in_channels, "out_channels": out_channels, "blocks": blocks}
        for argument, value in (numbers | {"expansion": expansion}).items():
            whole_number("MobileUNet", argument, value, 1)
        whole_number("MobileUNet", "reduction", reduction, 0)
        if norm not in NORMS:
            msg = f"MobileUNet: norm must be one of {', '.join(NORMS)}; got {norm!r}."
            raise UserError(msg)
        self.multiples = downsampling(rows)
        last = len(channels) - 1

        def level(inputs: int, outputs: int, stride: list[int]) -> nn.Sequential:
            made = nn.Sequential()
            for i in range(blocks):
                block = InvertedResidual(
                    spatial_dims,
                    inputs if i == 0 else outputs,
                    outputs,
                    stride if i == 0 else [1] * spatial_dims,
                    expansion,
                    reduction,
                    norm,
                )
                made.append(block)
            return made

        self.stem = nn.Sequential(
            _convolution(
                spatial_dims, in_channels, channels[0], norm, strides=rows[0], kernel_size=3
            ),
            nn.Hardswish(),
        )
        one = [1] * spatial_dims
        self.down = nn.ModuleList(
            level(channels[i - 1], channels[i], rows[i] if i < last else one)
            for i in range(1, last + 1)
        )
        self.up = nn.ModuleList()
        for i in range(last - 1, -1, -1):
            merge = level(channels[i] + channels[i + 1], channels[i], one)
            if i > 0:
                merge.append(
                    _transposed(spatial_dims, channels[i], channels[i], rows[i], channels[i])
                )
            self.up.append(merge)
        self.head = _transposed(spatial_dims, channels[0], out_channels, rows[0])

    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            check_patch(x, self.multiples)
        x = self.stem(x)
        skips = [x]
        for down in self.down:
            x = down(x)
            skips.append(x)
        x = skips.pop()
        for up in self.up:
            x = up(torch.cat([skips.pop(), x], dim=1))
        return self.head(x)


class InvertedResidual(nn.Module):
    """Widen by a pointwise convolution, filter each channel, weigh channels, narrow again.

    The input is added where it has the output's shape. ``(B, inputs, *space) -> (B, outputs,
    *space / stride)``.

    Args:
        spatial_dims: 1, 2 or 3.
        inputs, outputs: channels.
        stride: of each axis.
        expansion: channels inside, as a multiple of ``outputs``.
        reduction: of squeeze-and-excitation; 0: none.
        norm: ``instance`` or ``batch``.
    """

    def __init__(
        self,
        spatial_dims: int,
        inputs: int,
        outputs: int,
        stride: list[int],
        expansion: int,
        reduction: int,
        norm: str,
    ) -> None:
        super().__init__()
        wide = outputs * expansion
        self.adds_input = inputs == outputs and all(s == 1 for s in stride)
        self.expand = _convolution(spatial_dims, inputs, wide, norm, kernel_size=1)
        self.depthwise = _convolution(
            spatial_dims, wide, wide, norm, kernel_size=3, strides=stride, groups=wide
        )
        self.depthwise.conv = DepthwiseConv3d.of(self.depthwise.get_submodule("conv"))
        self.squeeze: nn.Module = nn.Identity()
        if reduction:
            self.squeeze = ChannelSELayer(spatial_dims, wide, r=min(reduction, wide))
            self.squeeze.fc[-1] = nn.Hardsigmoid()
        self.project = _convolution(spatial_dims, wide, outputs, norm, kernel_size=1)
        self.act = nn.Hardswish()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.expand(x))
        y = self.squeeze(self.act(self.depthwise(y)))
        y = self.project(y)
        return x + y if self.adds_input else y


def _convolution(dims: int, inputs: int, outputs: int, norm: str, **options: Any) -> Convolution:
    """MONAI's convolution with a normalisation; its activations have no hard-swish."""
    kind = (norm, {"affine": True})
    return Convolution(dims, inputs, outputs, act=None, norm=kind, bias=False, **options)


def _transposed(dims: int, inputs: int, outputs: int, stride: list[int], groups: int = 1) -> Any:
    """Three voxels wide and exactly ``stride`` times as large: ``(n - 1)s - 2 + 3 + (s - 1)``."""
    kind = Conv[Conv.CONVTRANS, dims]
    output_padding = [s - 1 for s in stride]
    return kind(inputs, outputs, 3, stride, 1, output_padding, groups)
