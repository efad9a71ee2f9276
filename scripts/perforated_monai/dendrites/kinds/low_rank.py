"""``low_rank``: through few channels, the layer's kernel on one side of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import nn

from ..convolutions import CONVOLUTIONS
from ..geometry import Shape, like, pointwise, spatial
from ..kind import UnfitError, count_or_zero
from ..reduced_layer import JoinedDendriticLayer
from .reduced import ReducedKind, refuse_groups

_SHARE = 0.15  # of its layer's weights: what a dendrite may cost where no rank is given


@dataclass(frozen=True)
class LowRank(ReducedKind):
    """The layer's kernel on one side, a pointwise convolution on the other, whichever costs less.

    rank·(K·C_in + C_out) weights, or rank·(C_in + K·C_out); Linear: rank·(C_in + C_out).

    Attributes:
        rank: channels in the middle; 0 takes the most that cost at most 15 % of each layer, or 1.
    """

    name: ClassVar[str] = "low_rank"
    rank: int = count_or_zero(", channels; 0: each layer's own")

    def settle(self, layer: Any, shape: Shape) -> Self:
        refuse_groups(shape, self.name)
        one, _ = _one_rank(shape)
        rank = self.rank or max(1, int(_SHARE * shape.weights() / one))
        if rank * one >= shape.weights():
            msg = f"rank {rank} would not be smaller than the layer's {shape.weights()} weights"
            raise UnfitError(msg)
        return type(self)(rank)

    def weights(self, shape: Shape) -> int:
        return self.rank * _one_rank(shape)[0]

    def stages(self, layer: Any, shape: Shape) -> list[nn.Module]:
        inputs, outputs, rank, bias = shape.inputs, shape.outputs, self.rank, layer.bias is not None
        if isinstance(layer, nn.Linear):
            first = nn.Linear(inputs, rank, bias=False, **like(layer))
            return [first, nn.Linear(rank, outputs, bias=bias, **like(layer))]
        if _one_rank(shape)[1]:
            kernel = spatial(layer, inputs, rank, 1, bias=False)
            return [kernel, pointwise(layer, rank, outputs, bias=bias)]
        kernel = spatial(layer, rank, outputs, 1, bias=bias)
        return [pointwise(layer, inputs, rank, bias=False), kernel]

    def run(self, layer: nn.Module, count: int, activation: str) -> Any:
        """Where the kernel comes first it joins the layer's own."""
        if isinstance(layer, CONVOLUTIONS) and _one_rank(Shape.of(layer))[1]:
            return JoinedDendriticLayer(layer, count, self.make(layer), activation)
        return super().run(layer, count, activation)


def _one_rank(shape: Shape) -> tuple[int, bool]:
    """Weights of rank 1, and whether the kernel comes first."""
    first = shape.taps * shape.inputs + shape.outputs
    last = shape.inputs + shape.taps * shape.outputs
    kernel_first = first < last or (first == last and not shape.transposed)
    return min(first, last), kernel_first
