"""``apical``: reads the image at the network's output, and adds detail that strides threw away."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from ..kind import UnfitError, measured
from ..sited_layer import ImageDendriticLayer, SitedDendriticLayer
from ..trace import Trace
from .sited import SitedKind


def _scale(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(type(v) is int and v >= 1 for v in value)


@dataclass(frozen=True)
class Apical(SitedKind):
    r"""The image at its own resolution, beside what the output layer reads.

    .. math::
        d(u, x) = O(PReLU(K(x) + U(u)))

    u is the input of the output layer, x the image. K is a convolution of k taps an axis from the
    image to ``hidden`` channels, U brings u to the image's resolution (a transposed convolution
    whose kernel is its stride, done as a pointwise convolution and depth to space; Shi et al.,
    arXiv:1609.05158), and O is pointwise to the output's channels. Nothing is normalised:
    a pass more over maps of full resolution costs time.

    Attributes:
        kernel: taps k along each axis, odd; 0 is 3.
        dilation: voxels between two taps; 0 is 1.
        hidden: channels; 0 is 4.
        reads: ``image``; empty is the same.
    """

    name: ClassVar[str] = "apical"
    layer_class: ClassVar[type[SitedDendriticLayer]] = ImageDendriticLayer

    image: int = measured("a whole number >= 1")
    scale: tuple[int, ...] = measured("whole numbers >= 1, one an axis", _scale, ())

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", tuple(self.scale))
        if self.reads not in ("", "image"):
            msg = f"kind apical reads image; got reads {self.reads!r}."
            raise ValueError(msg)

    def settle(self, name: str, seen: Trace) -> Self:
        """See ``SitedKind.settle``."""
        if isinstance(seen.output, str):
            raise UnfitError(f"the network's output is {seen.output}, not one tensor")
        if seen.output[2:] != seen.space:
            raise UnfitError(
                f"the network's output has {seen.output[2:]} voxels for an image of {seen.space}, "
                "and an apical dendrite needs the image's resolution"
            )
        into = seen.inputs.get(name)
        if name not in seen.last or into is None:
            raise UnfitError("it is not the last layer: its output is not the network's")
        factors = [a / b for a, b in zip(seen.space, into[2:], strict=False)]
        if len(into) != len(seen.image) or any(f < 1 or f != int(f) for f in factors):
            raise UnfitError(f"its input of shape {into} does not divide an image of {seen.space}")
        return type(self)(
            kernel=self.kernel or 3,
            dilation=self.dilation or 1,
            hidden=self.hidden or 4,
            reads="image",
            inputs=into[1],
            outputs=seen.output[1],
            dims=len(into) - 2,
            image=seen.image[1],
            scale=tuple(int(f) for f in factors),
        )

    def usual(self, names: list[str], seen: Trace) -> list[str]:
        """The outermost layer that gives the network's output and does not read the image."""
        inside = [n for n in names if seen.inputs[n] != seen.image]
        return inside[:1]

    def _knows(self, name: str, module: nn.Module, seen: Trace) -> bool:
        return name in seen.last

    def draw(self, like: dict[str, Any]) -> ApicalDendrite:
        """See ``SitedKind.draw``."""
        return ApicalDendrite(self, like)


class ApicalDendrite(nn.Module):
    """One apical dendrite: ``(B, C_u, *space_u), (B, C_image, *space) -> (B, C, *space)``."""

    def __init__(self, kind: Apical, like: dict[str, Any]) -> None:
        super().__init__()
        self.kind = kind
        self.scale = list(kind.scale)
        taps = math.prod(kind.scale)
        conv: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[kind.dims - 1]
        reach = kind.dilation * (kind.kernel // 2)
        self.look = conv(
            kind.image, kind.hidden, kind.kernel, padding=reach, dilation=kind.dilation, **like
        )
        self.features = conv(kind.inputs, kind.hidden * taps, 1, bias=False, **like)
        self.act = nn.PReLU(**like)
        self.out = conv(kind.hidden, kind.outputs, 1, **like)

    def forward(self, u: Tensor, image: Tensor) -> Tensor:
        seen = self.look(image) + depth_to_space(self.features(u), self.scale)
        y: Tensor = self.out(self.act(seen))
        return y


def depth_to_space(x: Tensor, scale: list[int]) -> Tensor:
    """Channels to voxels, s along each axis: ``(B, C·s…, D, …) -> (B, C, s·D, …)``."""
    if max(scale) == 1:
        return x
    dims = len(scale)
    taps = 1
    for factor in scale:
        taps *= factor
    shape = [x.size(0), x.size(1) // taps] + scale + [x.size(2 + i) for i in range(dims)]
    order = [0, 1]
    for i in range(dims):
        order += [2 + dims + i, 2 + i]
    out = [x.size(0), x.size(1) // taps] + [x.size(2 + i) * scale[i] for i in range(dims)]
    return x.reshape(shape).permute(order).reshape(out)
