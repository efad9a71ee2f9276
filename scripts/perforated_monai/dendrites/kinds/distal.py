"""``distal``: reads what a block has made, through a wide kernel, and adds what it lacks: reach."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import nn

from ..branches import Dendrite
from ..depthwise_conv import DepthwiseConv3d
from ..kind import UnfitError
from ..trace import Trace
from .sited import SitedKind

_READS = ("", "output", "input")


@dataclass(frozen=True)
class Distal(SitedKind):
    r"""A wide depthwise kernel, then two pointwise convolutions over channels.

    .. math::
        d(a) = P_2(PReLU(P_1(IN(DW_k(a)))))

    on the output a of a block (C channels): DW a depthwise convolution of k taps an axis without
    bias, IN instance normalisation without affine parameters, P1 C → hidden and P2 hidden → C
    pointwise. A ConvNeXt block (Liu et al., arXiv:2201.03545) is built of the same parts. With
    ``reads: input`` a is the block's input, of the same resolution as its output.

    Attributes:
        kernel: taps k along each axis, odd; 0 is 5.
        dilation: voxels between two taps; 0 is 1.
        hidden: channels between P1 and P2; 0 is C.
        reads: ``output`` or ``input`` of the block; empty is ``output``.
    """

    name: ClassVar[str] = "distal"
    # MONAI's blocks of convolution, normalisation and activation, and the project's own.
    blocks: ClassVar[tuple[str, ...]] = (
        *("Convolution", "ResidualUnit", "TwoConv", "UnetBasicBlock", "UnetResBlock", "ResBlock"),
        *("SegResBlock", "InvertedResidual", "SparseBlock"),
    )

    def __post_init__(self) -> None:
        if self.reads not in _READS:
            msg = f"kind distal reads output or input; got reads {self.reads!r}."
            raise ValueError(msg)

    @property
    def least_size(self) -> int:
        return self.dilation * (self.kernel // 2) + 1  # below that a tap never meets a voxel

    def _knows(self, name: str, module: nn.Module, seen: Trace) -> bool:
        # A Convolution without normalisation and activation is a layer of another block.
        alone = type(module).__name__ == "Convolution" and not hasattr(module, "adn")
        return super()._knows(name, module, seen) and not alone

    def settle(self, name: str, seen: Trace) -> Self:
        """See ``SitedKind.settle``."""
        reads = self.reads or "output"
        out, into = seen.outputs.get(name), seen.inputs.get(name)
        if out is None:
            raise UnfitError("it takes no part in a forward pass")
        if isinstance(out, str) or len(out) < 3:
            what = out if isinstance(out, str) else f"a tensor of shape {tuple(out)}"
            raise UnfitError(f"a map of channels is needed, and its output is {what}")
        if reads == "input" and (into is None or into[2:] != out[2:]):
            raise UnfitError("its input has another resolution than its output")
        inputs = out[1] if reads == "output" or into is None else into[1]
        return type(self)(
            kernel=self.kernel or 5,
            dilation=self.dilation or 1,
            hidden=self.hidden or out[1],
            reads=reads,
            inputs=inputs,
            outputs=out[1],
            dims=len(out) - 2,
        )

    def usual(self, names: list[str], seen: Trace) -> list[str]:
        """The outermost blocks at the coarsest resolution: cheap there, and reach counts most."""
        voxels: dict[str, int] = {}
        for name in names:
            out = seen.outputs[name]
            if not isinstance(out, str):
                voxels[name] = math.prod(out[2:])
        coarsest = [n for n in names if voxels[n] == min(voxels.values())]
        return [n for n in coarsest if not any(n.startswith(f"{o}.") for o in coarsest)]

    def draw(self, like: dict[str, Any]) -> Dendrite:
        """See ``SitedKind.draw``."""
        conv: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[self.dims - 1]
        norm: Any = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[self.dims - 1]
        reach = self.dilation * (self.kernel // 2)
        wide = conv(
            self.inputs, self.inputs, self.kernel, padding=reach, dilation=self.dilation,
            groups=self.inputs, bias=False, **like,
        )  # fmt: skip
        return Dendrite(
            self,
            DepthwiseConv3d.of(wide),
            norm(self.inputs),
            conv(self.inputs, self.hidden, 1, **like),
            nn.PReLU(**like),
            conv(self.hidden, self.outputs, 1, **like),
        )
