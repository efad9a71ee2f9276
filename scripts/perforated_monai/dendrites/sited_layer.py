"""Plain modules of layers with dendrites that read an output or the image; torch only."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from .branches import draw_anew
from .formula import dendritic_sum, expect_formula
from .kind import Kind


class SitedDendriticLayer(nn.Module):
    """A block with D dendrites that read its output or its input, as ``kind.reads`` says.

    The sum is that of ``DendriticLayer``. Input and output shapes are the block's own:
    ``(B, C_in, *space) -> (B, C, *space')``.

    Args:
        layer: the block; copied.
        count: dendrites D >= 1.
        one: one dendrite, copied for each.
        activation: non-linearity f of the sum.
        kind: of the dendrites, settled.
    """

    def __init__(
        self, layer: nn.Module, count: int, one: nn.Module, activation: str, kind: Any
    ) -> None:
        super().__init__()
        expect_formula(count, activation)
        self.kind: Kind = kind
        self.count = count
        self.activation = activation
        self.channels = int(kind.outputs)
        self.reads_input = kind.reads == "input"
        self.layer = copy.deepcopy(layer)
        self.dendrites = nn.ModuleList(copy.deepcopy(one) for _ in range(count))
        for dendrite in self.dendrites:
            draw_anew(dendrite)
        like = next((p for p in one.parameters()), torch.empty(0))
        self.to_output = nn.Parameter(like.new_zeros(count, self.channels))
        self.between = nn.Parameter(like.new_zeros(count * (count - 1) // 2, self.channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        read = x if self.reads_input else y
        parts = [y]
        for dendrite in self.dendrites:
            parts.append(dendrite(read))
        return dendritic_sum(parts, self.to_output, self.between, self.activation, False)

    def load_branches(self, layers: list[nn.Module], to_output: Tensor, between: Tensor) -> None:
        """Fill in trained weights; arguments as in ``DendriticLayer``, the block first."""
        if len(layers) != self.count + 1:
            msg = f"expected 1 main layer and {self.count} dendrites; got {len(layers)} layers."
            raise ValueError(msg)
        self.layer.load_state_dict(layers[0].state_dict())
        for own, trained in zip(self.dendrites, layers[1:], strict=True):
            own.load_state_dict(trained.state_dict())
        with torch.no_grad():
            self.to_output.copy_(to_output)
            self.between.copy_(between)


class ImageDendriticLayer(SitedDendriticLayer):
    """The output layer of a network, with D dendrites that read its input and the image.

    ``(B, C_u, *space_u), (B, C_image, *space) -> (B, C, *space)``.
    """

    def forward(self, u: Tensor, image: Tensor) -> Tensor:  # type: ignore[override]
        parts = [self.layer(u)]
        for dendrite in self.dendrites:
            parts.append(dendrite(u, image))
        return dendritic_sum(parts, self.to_output, self.between, self.activation, False)


class WithImage(nn.Module):
    """A network whose output layer also sees the image.

    Args:
        network: without its output layer: it returns what that layer reads.
        output: the output layer and its dendrites.
    """

    def __init__(self, network: nn.Module, output: ImageDendriticLayer) -> None:
        super().__init__()
        self.network = network
        self.output = output

    def forward(self, image: Tensor) -> Tensor:
        y: Tensor = self.output(self.network(image), image)
        return y
