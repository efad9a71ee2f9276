"""``Dendrite``: one dendrite that is no copy of its layer, as a row of torch's own layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .kind import Kind


class Dendrite(nn.Sequential):
    """One dendrite that is no copy: input and output shapes are its layer's own.

    Args:
        kind: what it is; nothing of it is left to be chosen.
        stages: its layers; the last one has a bias where the dendrite's layer has one.
    """

    def __init__(self, kind: Kind, *stages: nn.Module) -> None:
        super().__init__(*stages)
        self.kind = kind

    def reset_parameters(self) -> None:
        """Draw all weights anew, each convolution in its own way."""
        for stage in self:
            reset: Any = getattr(stage, "reset_parameters", None)
            if reset is not None:
                reset()


def draw_anew(dendrite: nn.Module) -> None:
    """Draw the weights of a dendrite and of every module in it, each in its own way."""
    for module in dendrite.modules():
        reset: Any = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()


class Shift(nn.Module):
    """Zeros around a map, or voxels less: ``pads`` as ``torch.nn.functional.pad`` takes them."""

    def __init__(self, pads: Sequence[int]) -> None:
        super().__init__()
        self.pads = list(pads)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.pads)
