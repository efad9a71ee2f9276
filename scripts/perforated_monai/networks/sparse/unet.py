"""``SparseUNet``: a UNet of branched convolutions, masked while it learns which it needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.blocks import Convolution
from monai.networks.layers import Conv
from torch import Tensor, nn

from ...errors import UserError
from ..checks import Stride, check_levels, check_patch, downsampling, whole_number
from .branched import BranchedConvolution
from .hard_concrete import BranchMasks


class SparseUNet(nn.Module):
    """A UNet whose convolutions are branches with learnable masks and input-driven gates.

    With ``sparsity`` it has masks, and ``SparsityHandler`` trains them; without, it is what is left
    when the masked branches are gone (``fold.fold`` makes one of the other). The first level
    strides at once and the last one does not, as in MONAI's ``UNet``.

    Args:
        spatial_dims: 1, 2 or 3.
        in_channels: of the image.
        out_channels: of the prediction.
        channels: of each level, at least two.
        strides: of each level but the last; a number, or one an axis.
        branches: of each block, or one number for all; blocks are those behind the first level on
            the way down, then those on the way up, ``2 * len(channels) - 2`` together.
        width: channels of a branch.
        gate: with a gate for each branch.
        sparsity: share of the branches' operations that training removes, between 0 and 1; None
            for a network without masks.

    Shapes: ``(B, in_channels, *space) -> (B, out_channels, *space)``; sizes of space are multiples
    of the product of strides.

    Raises:
        UserError: arguments that do not fit together, or a patch of another size.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int],
        strides: Sequence[Stride],
        branches: int | Sequence[int] = 8,
        width: int = 4,
        gate: bool = True,
        sparsity: float | None = None,
    ) -> None:
        super().__init__()
        rows = check_levels("SparseUNet", spatial_dims, channels, strides)
        numbers = {"in_channels": in_channels, "out_channels": out_channels, "width": width}
        for argument, value in numbers.items():
            whole_number("SparseUNet", argument, value, 1)
        if not isinstance(gate, bool):
            msg = f"SparseUNet: gate must be true or false; got {gate!r}."
            raise UserError(msg)
        last = len(channels) - 1
        counts = _counts(branches, 2 * last)
        self.multiples = downsampling(rows)
        self.arguments: dict[str, Any] = {
            "spatial_dims": spatial_dims,
            **{"in_channels": in_channels, "out_channels": out_channels},
            **{"channels": list(channels), "strides": list(strides)},
            **{"branches": counts, "width": width, "gate": gate, "sparsity": sparsity},
        }
        one = [1] * spatial_dims

        def block(inputs: int, outputs: int, stride: list[int], k: int) -> BranchedConvolution:
            return BranchedConvolution(spatial_dims, inputs, outputs, stride, k, width, gate)

        self.stem = Convolution(
            *(spatial_dims, in_channels, channels[0], rows[0], 3),
            act=("leakyrelu", {"negative_slope": 0.1}),
            norm=("instance", {"affine": True}),
            bias=False,
        )
        self.down = nn.ModuleList(
            block(channels[i - 1], channels[i], rows[i] if i < last else one, counts[i - 1])
            for i in range(1, last + 1)
        )
        self.up = nn.ModuleList()
        self.raises = nn.ModuleList()
        for k, i in enumerate(range(last - 1, -1, -1), start=last):
            self.up.append(block(channels[i] + channels[i + 1], channels[i], one, counts[k]))
            raised: nn.Module = nn.Identity()  # the head takes the last one up
            if i > 0:
                raised = _transposed(spatial_dims, channels[i], channels[i], rows[i], channels[i])
            self.raises.append(raised)
        self.head = _transposed(spatial_dims, channels[0], out_channels, rows[0], 1)
        self.masks: BranchMasks | None = None
        if sparsity is not None:
            self.masks = BranchMasks(counts, self._costs(rows), sparsity)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            check_patch(x, self.multiples)
        masks: list[Tensor] = []
        if self.masks is not None:
            masks = self.masks()
        x = self.stem(x)
        skips = [x]
        for i, down in enumerate(self.down):
            x = down(x, _entry(masks, i))
            skips.append(x)
        x = skips.pop()
        for i, (up, raised) in enumerate(zip(self.up, self.raises)):  # noqa: B905 (TorchScript)
            x = up(torch.cat([skips.pop(), x], dim=1), _entry(masks, len(self.down) + i))
            x = raised(x)
        return self.head(x)

    def blocks(self) -> list[tuple[str, BranchedConvolution]]:
        """Blocks with their names, in the order of ``branches``."""
        blocks: list[Any] = [(f"down.{i}", block) for i, block in enumerate(self.down)]
        return blocks + [(f"up.{i}", block) for i, block in enumerate(self.up)]

    def _costs(self, strides: list[list[int]]) -> list[float]:
        """Multiply-adds of one branch of each block, a voxel of the image."""
        voxels = [1.0]
        for row in strides:
            voxels.append(voxels[-1] / math.prod(row))
        levels = len(strides)
        rows = []
        for i, (_, block) in enumerate(self.blocks()):
            if i < levels:
                rows.append(block.cost(voxels[min(i + 2, levels)], voxels[i + 1]))
            else:
                here = voxels[2 * levels - i]
                rows.append(block.cost(here, here))
        return rows


def _entry(masks: list[Tensor], i: int) -> Tensor | None:
    return masks[i] if len(masks) > 0 else None


def _counts(branches: Any, blocks: int) -> list[int]:
    counts: Any = [branches] * blocks if isinstance(branches, int) else branches
    if not isinstance(counts, Sequence) or isinstance(counts, str) or len(counts) != blocks:
        msg = (
            f"SparseUNet: branches must be one number or one for each of the {blocks} blocks; got "
            f"{branches!r}."
        )
        raise UserError(msg)
    for count in counts:
        whole_number("SparseUNet", "branches", count, 1)
    return list(counts)


def _transposed(dims: int, inputs: int, outputs: int, stride: list[int], groups: int) -> Any:
    """Three voxels wide and exactly ``stride`` times as large."""
    kind: Any = Conv[Conv.CONVTRANS, dims]
    return kind(inputs, outputs, 3, stride, 1, [s - 1 for s in stride], groups)
