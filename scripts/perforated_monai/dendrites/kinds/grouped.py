"""``grouped``: the layer's own kernel in groups of channels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import nn

from ..geometry import Shape, spatial
from ..kind import UnfitError, count_or_zero
from .reduced import ReducedKind, refuse_linear

_FEWEST_GROUPS = 4  # one set costs at most a quarter of its layer where no number is given


@dataclass(frozen=True)
class Grouped(ReducedKind):
    """K·C_in·C_out / groups weights for a kernel of K taps.

    Attributes:
        groups: 0 takes the smallest number >= 4 that divides both channel counts of each layer.
    """

    name: ClassVar[str] = "grouped"
    groups: int = count_or_zero("; 0: each layer's own")

    def settle(self, layer: Any, shape: Shape) -> Self:
        refuse_linear(layer, self.name)
        return type(self)(_groups(shape, self.groups))

    def weights(self, shape: Shape) -> int:
        return shape.taps * shape.inputs * shape.outputs // self.groups

    def stages(self, layer: Any, shape: Shape) -> list[nn.Module]:
        bias = layer.bias is not None
        return [spatial(layer, shape.inputs, shape.outputs, self.groups, bias=bias)]


def _groups(shape: Shape, wanted: int) -> int:
    common = math.gcd(shape.inputs, shape.outputs)
    if wanted:
        if common % wanted or wanted % shape.groups or wanted <= shape.groups:
            msg = (
                f"groups {wanted} does not divide its {shape.inputs} input and {shape.outputs} "
                f"output channels (or is not above the layer's own {shape.groups})"
            )
            raise UnfitError(msg)
        return wanted
    fitting = range(_FEWEST_GROUPS * shape.groups, common + 1, shape.groups)
    smallest = next((g for g in fitting if common % g == 0), None)
    if smallest is None:
        msg = (
            f"no number of groups from {_FEWEST_GROUPS * shape.groups} on divides its "
            f"{shape.inputs} input and {shape.outputs} output channels"
        )
        raise UnfitError(msg)
    return smallest
