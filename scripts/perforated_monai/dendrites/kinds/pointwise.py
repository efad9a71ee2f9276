"""``pointwise``: the layer's kernel with its middle tap alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import nn

from ..branches import Shift
from ..convolutions import TRANSPOSED
from ..geometry import Shape, middle_pads, pointwise, transposed_pads
from ..kind import UnfitError
from .reduced import ReducedKind, refuse_linear, refuse_one_tap


@dataclass(frozen=True)
class Pointwise(ReducedKind):
    """C_in·C_out weights: what one voxel says to the voxel at its place.

    For a transposed layer it is a pointwise convolution repeated over the voxels that one input
    voxel becomes (nearest neighbour).
    """

    name: ClassVar[str] = "pointwise"

    def settle(self, layer: Any, shape: Shape) -> Self:
        refuse_linear(layer, self.name)
        refuse_one_tap(shape, self.name)
        _refuse_padding(layer)
        return self

    def weights(self, shape: Shape) -> int:
        return shape.inputs * shape.outputs // shape.groups

    def stages(self, layer: Any, shape: Shape) -> list[nn.Module]:
        options: dict[str, Any] = {"bias": layer.bias is not None, "groups": shape.groups}
        if shape.transposed:
            made = pointwise(layer, shape.inputs, shape.outputs, **options)
            grown = nn.Upsample(scale_factor=tuple(float(s) for s in layer.stride), mode="nearest")
            return [made, grown, *_shift(transposed_pads(layer))]
        made = pointwise(layer, shape.inputs, shape.outputs, stride=layer.stride, **options)
        return [*_shift(middle_pads(layer)), made]


def _refuse_padding(layer: Any) -> None:
    if layer.padding_mode == "zeros" or isinstance(layer, TRANSPOSED):
        return
    if any(p > 0 for pair in middle_pads(layer) for p in pair):
        msg = f"its {layer.padding_mode} padding reaches beyond the middle of its kernel"
        raise UnfitError(msg)


def _shift(pads: list[tuple[int, int]]) -> list[nn.Module]:
    """Nothing where nothing moves; ``pads`` hold both ends of each axis, the first axis first."""
    if not any(p for pair in pads for p in pair):
        return []
    return [Shift([p for pair in reversed(pads) for p in pair])]
