"""``copy``: a dendrite is a copy of its layer or block; the library's own kind."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from monai.networks.blocks import Convolution
from torch import nn

from ..block_layer import DendriticBlock
from ..geometry import Shape
from ..kind import Kind
from ..layer import DendriticLayer


@dataclass(frozen=True)
class Copy(Kind):
    """A deep copy of the layer with its own weights (perforatedai 3.2.9)."""

    name: ClassVar[str] = "copy"

    def fits(self, layer: nn.Module) -> Self:
        """Any module can be copied; export takes those of ``run``."""
        return self

    def cost(self, layer: nn.Module) -> int:
        """As much as the layer, and one output weight a channel."""
        return sum(p.numel() for p in layer.parameters()) + Shape.of(layer).outputs

    def make(self, layer: nn.Module) -> nn.Module:
        """The copy, whose weights are the layer's until they are drawn."""
        return copy.deepcopy(layer)

    def run(self, layer: nn.Module, count: int, activation: str) -> Any:
        """A convolution or Linear as one wide layer, or a MONAI ``Convolution`` block."""
        made = DendriticBlock if isinstance(layer, Convolution) else DendriticLayer
        return made(layer, count, activation)
