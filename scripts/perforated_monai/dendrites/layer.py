"""``DendriticLayer``: a layer and its dendrites, fused into one convolution; torch only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .convolutions import FUSIBLE, load_side_by_side, run_layer, widened
from .formula import dendritic_sum, expect_formula


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

    The output has the dtype of the fused layer's output (bf16 stays bf16). Without gradients the
    sum is done inside the fused output, which then is the only large buffer.

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
        expect_formula(count, activation)
        self.count = count
        self.activation = activation
        self.linear = isinstance(layer, nn.Linear)
        self.groups = 1 if isinstance(layer, nn.Linear) else int(layer.groups)
        outputs: Any = layer.out_features if self.linear else layer.out_channels
        self.channels = int(outputs)
        self.fused = widened(layer, count + 1)
        reference = layer.weight
        self.to_output = nn.Parameter(reference.new_zeros(count, self.channels))
        self.between = nn.Parameter(reference.new_zeros(count * (count - 1) // 2, self.channels))

    def forward(self, x: Tensor) -> Tensor:
        parts = self._split(self.wide(x))
        return dendritic_sum(parts, self.to_output, self.between, self.activation, self.linear)

    def wide(self, x: Tensor) -> Tensor:
        """Main layer and dendrites at once, past PyTorch's slow path where that is safe."""
        if not torch.jit.is_scripting():
            return run_layer(self.fused, x)
        return self.fused(x)

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
            load_side_by_side(self.fused, layers)
            self.to_output.copy_(to_output)
            self.between.copy_(between)
