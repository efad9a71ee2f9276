"""``depthwise``: one kernel a channel, then a pointwise convolution over channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import nn

from ..geometry import Shape, pointwise, spatial
from ..kind import UnfitError
from .reduced import ReducedKind, refuse_groups, refuse_linear, refuse_one_tap


@dataclass(frozen=True)
class Depthwise(ReducedKind):
    """Depthwise separable (Howard et al., MobileNets, arXiv:1704.04861), for any C_in and C_out.

    K·min(C_in, C_out) + C_in·C_out weights for a kernel of K taps. The kernel runs on the side with
    fewer channels; on that of the outputs for a transposed layer (K·C_out), whose maps are smaller
    before it.
    """

    name: ClassVar[str] = "depthwise"

    def settle(self, layer: Any, shape: Shape) -> Self:
        refuse_linear(layer, self.name)
        refuse_one_tap(shape, self.name)
        refuse_groups(shape, self.name)
        if self.weights(shape) >= shape.weights():
            msg = "with so few channels a depthwise dendrite would not be smaller"
            raise UnfitError(msg)
        return self

    def weights(self, shape: Shape) -> int:
        channels = shape.inputs if _kernel_first(shape) else shape.outputs
        return shape.taps * channels + shape.inputs * shape.outputs

    def stages(self, layer: Any, shape: Shape) -> list[nn.Module]:
        inputs, outputs, bias = shape.inputs, shape.outputs, layer.bias is not None
        if _kernel_first(shape):
            kernel = spatial(layer, inputs, inputs, inputs, bias=False)
            return [kernel, pointwise(layer, inputs, outputs, bias=bias)]
        kernel = spatial(layer, outputs, outputs, outputs, bias=bias)
        return [pointwise(layer, inputs, outputs, bias=False), kernel]


def _kernel_first(shape: Shape) -> bool:
    return not shape.transposed and shape.inputs <= shape.outputs
