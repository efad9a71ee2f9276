"""``DendriticLayer``: a layer and its dendrites, fused into one convolution; torch only."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
FUSIBLE = (*_CONVOLUTIONS, *_TRANSPOSED, nn.Linear)


class DendriticLayer(nn.Module):
    r"""A layer with D dendrites, each a copy of the layer with its own weights.

    .. math::
        y = main(x) + \sum_i w_i \cdot f(a_i), \qquad
        a_i = dendrite_i(x) + \sum_{j<i} v_{ij} \cdot f(a_j)

    with one weight a channel in w (``to_output``) and v (``between``); the formula is the one
    perforatedai 3.2.9 trains. Main layer and dendrites run as one layer with (D + 1)·C outputs.

    Args:
        layer: ``Conv1d/2d/3d``, ``ConvTranspose1d/2d/3d`` (with any groups) or ``Linear`` with C
            outputs; used as the template and copied. Input and output shapes are the layer's own:
            ``(B, C_in, *space) -> (B, C, *space')``, or ``(..., C_in) -> (..., C)`` for Linear.
        count: number of dendrites D >= 1.
        activation: ``sigmoid``, ``tanh``, ``relu`` or ``identity``.

    The output has the dtype of the fused layer's output (bf16 stays bf16).

    Raises:
        TypeError: for another kind of layer.
        ValueError: for count < 1 or an unknown activation. A layer without dendrites is the plain
            layer itself: do not wrap it.
    """

    def __init__(self, layer: nn.Module, count: int, activation: str = "sigmoid") -> None:
        super().__init__()
        if not isinstance(layer, FUSIBLE):
            msg = f"DendriticLayer takes convolutions and Linear; got {type(layer).__name__}."
            raise TypeError(msg)
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            msg = f"count must be a whole number >= 1; got {count!r}. For 0 use the plain layer."
            raise ValueError(msg)
        if activation not in ("sigmoid", "tanh", "relu", "identity"):
            msg = f"activation must be sigmoid, tanh, relu or identity; got {activation!r}."
            raise ValueError(msg)
        self.count = count
        self.activation = activation
        self.linear = isinstance(layer, nn.Linear)
        self.groups = 1 if isinstance(layer, nn.Linear) else int(layer.groups)
        self.channels = int(layer.out_features if self.linear else layer.out_channels)
        self.fused = _widened(layer, count + 1)
        reference = layer.weight
        self.to_output = nn.Parameter(reference.new_zeros(count, self.channels))
        self.between = nn.Parameter(reference.new_zeros(count * (count - 1) // 2, self.channels))

    def forward(self, x: Tensor) -> Tensor:
        parts = self._split(self.fused(x))
        out = parts[0]
        shape = [1] * out.dim()
        shape[-1 if self.linear else 1] = self.channels
        active: list[Tensor] = []
        row = 0
        for i in range(self.count):
            a = parts[i + 1]
            for j in range(i):
                a = torch.addcmul(a, self.between[row].to(a.dtype).view(shape), active[j])
                row += 1
            f = self._activate(a)
            active.append(f)
            out = torch.addcmul(out, self.to_output[i].to(out.dtype).view(shape), f)
        return out

    def _activate(self, x: Tensor) -> Tensor:
        if self.activation == "sigmoid":
            return torch.sigmoid(x)
        if self.activation == "tanh":
            return torch.tanh(x)
        if self.activation == "relu":
            return torch.relu(x)
        return x

    def _split(self, x: Tensor) -> list[Tensor]:
        """Fused output -> main and D dendrite outputs; grouped outputs interleave by group."""
        if self.linear:
            return list(torch.split(x, self.channels, dim=-1))
        if self.groups == 1:
            return list(torch.split(x, self.channels, dim=1))
        by_group = x.unflatten(1, [self.groups, self.count + 1, self.channels // self.groups])
        return [by_group.select(2, i).flatten(1, 2) for i in range(self.count + 1)]

    def load_branches(self, layers: list[nn.Module], to_output: Tensor, between: Tensor) -> None:
        """Fill in trained weights.

        Args:
            layers: main layer and its D dendrites, all of the template's class and shape.
            to_output: w, ``(D, C)``.
            between: rows v_10, v_20, v_21, …, ``(D(D-1)/2, C)``.
        """
        if len(layers) != self.count + 1:
            msg = f"expected 1 main layer and {self.count} dendrites; got {len(layers)} layers."
            raise ValueError(msg)
        with torch.no_grad():
            self.fused.weight.copy_(self._interleave([m.weight for m in layers]))
            if self.fused.bias is not None:
                self.fused.bias.copy_(self._interleave([m.bias for m in layers], bias=True))
            self.to_output.copy_(to_output)
            self.between.copy_(between)

    def _interleave(self, tensors: list[Tensor], bias: bool = False) -> Tensor:
        """Concatenate along the output axis, group by group."""
        if self.linear or self.groups == 1:
            axis = 1 if isinstance(self.fused, _TRANSPOSED) and not bias else 0
            return torch.cat(tensors, dim=axis)
        if isinstance(self.fused, _TRANSPOSED) and not bias:
            return torch.cat(tensors, dim=1)  # (C_in, C_out / groups, ...): groups lie on axis 0
        stacked = [t.unflatten(0, (self.groups, -1)) for t in tensors]
        return torch.cat(stacked, dim=1).flatten(0, 1)


def _widened(layer: nn.Module, factor: int) -> nn.Module:
    """The same kind of layer with ``factor`` times the outputs, on the same device and dtype."""
    like = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, layer.out_features * factor, bias=bias, **like)
    if layer.padding_mode != "zeros" and isinstance(layer, _TRANSPOSED):  # pragma: no cover
        msg = "transposed convolutions have zero padding only"
        raise TypeError(msg)
    options = {
        name: copy.copy(getattr(layer, name)) for name in ("stride", "padding", "dilation", "groups")
    }
    if isinstance(layer, _TRANSPOSED):
        options["output_padding"] = layer.output_padding
    else:
        options["padding_mode"] = layer.padding_mode
    return _plain_class(layer)(
        layer.in_channels,
        layer.out_channels * factor,
        layer.kernel_size,
        bias=bias,
        **options,
        **like,
    )


def _plain_class(layer: nn.Module) -> type[nn.Module]:
    return next(kind for kind in FUSIBLE if isinstance(layer, kind))
