"""Convolutions and Linear side by side as one layer, and past PyTorch's slow path; torch only."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .depthwise_conv import DepthwiseConv3d

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


_PLAIN = (nn.Conv3d, DepthwiseConv3d)  # whose forward is known


FUSIBLE = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)


def run_layer(layer: Any, x: Tensor) -> Tensor:
    """``layer(x)``, past PyTorch's slow path where that is safe; not scriptable."""
    if type(layer) in _PLAIN and meets_slow_path(layer, x):
        return run_convolution(layer, x, layer.weight, layer.bias)
    out: Tensor = layer(x)
    return out


def run_convolution(layer: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution with the geometry of ``layer`` and other weights; likewise."""
    if type(layer) in _PLAIN and meets_slow_path(layer, x):
        geometry: Any = (layer.padding, layer.stride, layer.dilation, layer.groups)
        return torch.mkldnn_convolution(x, weight, bias, *geometry)
    out: Tensor = layer._conv_forward(x, weight, bias)
    return out


def meets_slow_path(layer: nn.Conv3d, x: Tensor) -> bool:
    """Whether PyTorch would leave oneDNN and oneDNN is sure to take this convolution.

    torch 2.13 sends a float32 3D convolution of one sample to ``slow_conv3d`` unless
    N·C·D·H > 20480 (aten/src/ATen/native/Convolution.cpp, ``use_mkldnn``: a rule made for 2D);
    that took 1.4 to 3 times as long. Under autograd, in graphs and elsewhere PyTorch decides.
    """
    if torch.is_grad_enabled() or torch.jit.is_tracing() or torch.compiler.is_compiling():
        return False
    return bool(
        x.dim() == 5
        and x.size(0) == 1
        and x.numel() > 0
        and x.device.type == "cpu"
        and x.dtype == layer.weight.dtype == torch.float32
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
    )


def load_side_by_side(wide: Any, layers: Sequence[Any]) -> None:
    """Fill ``wide``, made by ``widened``, with the weights of several layers, in place."""
    wide.weight.copy_(_side_by_side(wide, [m.weight for m in layers], bias=False))
    if wide.bias is not None:
        wide.bias.copy_(_side_by_side(wide, [m.bias for m in layers], bias=True))


def _side_by_side(wide: Any, tensors: list[Tensor], bias: bool) -> Tensor:
    """Concatenate along the output axis, group by group."""
    if isinstance(wide, TRANSPOSED) and not bias:
        return torch.cat(tensors, dim=1)  # (C_in, C_out / groups, ...): groups lie on axis 0
    groups = 1 if isinstance(wide, nn.Linear) else wide.groups
    if groups == 1:
        return torch.cat(tensors)
    stacked = [t.unflatten(0, (groups, -1)) for t in tensors]
    return torch.cat(stacked, dim=1).flatten(0, 1)


def widened(layer: Any, factor: int) -> nn.Module:
    """The same kind of layer with ``factor`` times the outputs, on the same device and dtype."""
    like = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, layer.out_features * factor, bias=bias, **like)
    if layer.padding_mode != "zeros" and isinstance(layer, TRANSPOSED):  # pragma: no cover
        msg = "transposed convolutions have zero padding only"
        raise TypeError(msg)
    options = {
        name: copy.copy(getattr(layer, name))
        for name in ("stride", "padding", "dilation", "groups")
    }
    if isinstance(layer, TRANSPOSED):
        options["output_padding"] = layer.output_padding
    else:
        options["padding_mode"] = layer.padding_mode
    return plain_class(layer)(
        layer.in_channels,
        layer.out_channels * factor,
        layer.kernel_size,
        bias=bias,
        **options,
        **like,
    )


def plain_class(layer: nn.Module) -> Any:
    """The class of ``FUSIBLE`` that a layer is of, without what a subclass adds."""
    return next(kind for kind in FUSIBLE if isinstance(layer, kind))
