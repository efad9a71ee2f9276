"""What the kinds share that are cheaper than a copy of their layer."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Self

from torch import nn

from ..branches import Dendrite
from ..convolutions import FUSIBLE
from ..geometry import Shape
from ..kind import Kind, UnfitError
from ..reduced_layer import ReducedDendriticLayer


@dataclass(frozen=True)
class ReducedKind(Kind):
    """A dendrite made of one or two of torch's own layers, with fewer weights than its layer.

    It takes convolutions, transposed convolutions and Linear. Stride, dilation, padding and output
    padding are the layer's, and it has a bias where the layer has one.
    """

    def fits(self, layer: nn.Module) -> Self:
        """The kind with its settings for a layer; see ``Kind.fits``."""
        if not isinstance(layer, FUSIBLE):
            msg = f"kind {self.name} takes convolutions and Linear; got {type(layer).__name__}."
            raise TypeError(msg)
        return self.settle(layer, Shape.of(layer))

    def cost(self, layer: Any) -> int:
        """Weights, a bias where the layer has one, and one output weight a channel."""
        settled, shape = self.fits(layer), Shape.of(layer)
        return settled.weights(shape) + shape.outputs * (1 if layer.bias is None else 2)

    def make(self, layer: nn.Module) -> Dendrite:
        """A dendrite with fresh weights, on the layer's device and with its dtype."""
        settled = self.fits(layer)
        return Dendrite(settled, *settled.stages(layer, Shape.of(layer)))

    def run(self, layer: nn.Module, count: int, activation: str) -> Any:
        """The layer as it is, and each convolution of the dendrites once for all of them."""
        return ReducedDendriticLayer(layer, count, self.make(layer), activation)

    @abstractmethod
    def settle(self, layer: Any, shape: Shape) -> Self:
        """The kind with its settings for a layer, or ``UnfitError``."""

    @abstractmethod
    def weights(self, shape: Shape) -> int:
        """Weights of one dendrite without its bias; the settings are chosen."""

    @abstractmethod
    def stages(self, layer: Any, shape: Shape) -> list[nn.Module]:
        """The layers of one dendrite, in order; the settings are chosen."""


def refuse_linear(layer: nn.Module, name: str) -> None:
    """Raise UnfitError for a Linear layer, which has no kernel to reduce."""
    if isinstance(layer, nn.Linear):
        msg = f"a Linear layer has no {name} dendrite"
        raise UnfitError(msg)


def refuse_one_tap(shape: Shape, name: str) -> None:
    """Raise UnfitError for a kernel of one tap."""
    if shape.taps == 1:
        msg = f"its kernel has one tap, so that a {name} dendrite would not be smaller"
        raise UnfitError(msg)


def refuse_groups(shape: Shape, name: str) -> None:
    """Raise UnfitError for a layer with groups."""
    if shape.groups > 1:
        msg = f"a layer with {shape.groups} groups has no {name} dendrite"
        raise UnfitError(msg)
