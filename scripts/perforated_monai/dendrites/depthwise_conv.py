"""``DepthwiseConv3d``: a depthwise convolution whose gradients are cheap on a CPU as well."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class DepthwiseConv3d(nn.Conv3d):
    """``nn.Conv3d`` with ``groups = channels``, stride 1 and the padding that keeps its size.

    Output, weights, initialisation and state dict are those of ``nn.Conv3d``, so either may stand
    in for the other. In training on a CPU in float32 the backward pass, for which PyTorch 2.13 has
    a slow path in three dimensions, is made of faster ones: the gradient of the input is the
    depthwise convolution of the output's gradient with the turned kernel, and the gradient of the
    weights that of 2-D convolutions, one for each tap of the first axis. They differ from
    PyTorch's by rounding. This can go when PyTorch takes a fast path itself
    (``tests/benchmarks/depthwise.py`` compares them).
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, D, H, W) -> (B, C, D, H, W)``."""
        # Two conditions: TorchScript leaves out what stands under the first alone.
        if not torch.jit.is_scripting():  # noqa: SIM102
            if self._is_slow(x):
                return self._trained(x)
        return self._conv_forward(x, self.weight, self.bias)

    def _is_slow(self, x: Tensor) -> bool:
        plain = x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        trains = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        return trains and plain and x.device.type == "cpu" and not torch.compiler.is_compiling()

    def _trained(self, x: Tensor) -> Tensor:
        y: Tensor = _Depthwise.apply(x, self.weight, self.dilation)
        return y if self.bias is None else y + self.bias.view(-1, 1, 1, 1)

    @classmethod
    def of(cls, layer: nn.Module) -> nn.Module:
        """A layer with the same parameters as this class, where it is as the class says.

        Any other layer comes back as it is.
        """
        if type(layer) is not nn.Conv3d or layer.padding_mode != "zeros":
            return layer
        reach = tuple(d * (k // 2) for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
        keeps = all(k % 2 for k in layer.kernel_size) and layer.padding == reach
        depthwise = layer.groups == layer.in_channels == layer.out_channels
        if not (keeps and depthwise and max(layer.stride) == 1 and max(layer.kernel_size) > 1):
            return layer
        made = cls.__new__(cls)
        made.__dict__.update(layer.__dict__)
        return made


class _Depthwise(torch.autograd.Function):
    """Kernels ``(C, 1, k, k, k)`` over ``(B, C, D, H, W)``, padded by ``dilation · (k // 2)``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dilation: tuple[int, ...]) -> Tensor:
        # With channels last, oneDNN needs no number of channels that fills its blocks.
        x = x.contiguous(memory_format=torch.channels_last_3d)
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        return _convolved(x, weight, dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = _convolved(gradient, weight.flip(2, 3, 4), ctx.dilation)
        if ctx.needs_input_grad[1]:
            of_weight = _of_weight(x, gradient, weight, ctx.dilation)
        return of_x, of_weight, None


def _reach(weight: Tensor, dilation: tuple[int, ...]) -> list[int]:
    return [d * (k // 2) for d, k in zip(dilation, weight.shape[2:], strict=True)]


def _convolved(x: Tensor, weight: Tensor, dilation: tuple[int, ...]) -> Tensor:
    reach = _reach(weight, dilation)
    return torch.conv3d(x, weight, None, 1, reach, dilation, x.size(1)).contiguous()


def _of_weight(x: Tensor, gradient: Tensor, weight: Tensor, dilation: tuple[int, ...]) -> Tensor:
    """The gradient of the kernels: for each tap of the first axis that of a 2-D convolution."""
    depth, reach = x.size(2), _reach(weight, dilation)
    made = torch.zeros_like(weight)
    for tap in range(weight.size(2)):
        # Slice z of the output reads slice z + shift of the input, where there is one.
        shift = tap * dilation[0] - reach[0]
        first, last = max(0, -shift), min(depth, depth - shift)
        if last <= first:
            continue
        kernel = weight[:, :, tap].contiguous()
        # Sample by sample: its slices are views, with channels last.
        for sample, upper in zip(x.transpose(1, 2), gradient.transpose(1, 2), strict=True):
            made[:, :, tap] += torch.ops.aten.convolution_backward(
                upper[first:last], sample[first + shift : last + shift], kernel, None, [1, 1],
                reach[1:], dilation[1:], False, [0, 0], x.size(1), [False, True, False],
            )[1]  # fmt: skip
    return made
