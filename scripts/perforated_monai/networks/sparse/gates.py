"""``DriveGate``: switches each branch by how strongly the input drives it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DriveGate(nn.Module):
    """A gate in [0, 1] for each sample and branch; exactly 0 below the branch's own threshold.

    ``gate = hardsigmoid(slope * log(drive) + bias)``, where the drive is the largest absolute value
    over space of what enters the branch's convolution, averaged over its channels. Means over space
    would not do: instance normalisation makes them nearly alike for every input (they vary by 1 to
    2 % over patches of real volumes, the largest values by 5 to 25 %).

    Args:
        branches: K.
        width: channels of a branch.

    Shapes: ``(B, K * width, *space) -> (B, K)``.
    """

    def __init__(self, branches: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.slope = nn.Parameter(torch.full((branches,), 4.0))
        self.bias = nn.Parameter(torch.ones(branches))

    def forward(self, x: Tensor) -> Tensor:
        drive = x.abs().flatten(2).amax(2).unflatten(1, [-1, self.width]).mean(2)
        # 1e-3 keeps the logarithm finite where the input is zero.
        return nn.functional.hardsigmoid(self.slope * torch.log(drive + 1e-3) + self.bias)
