"""``BranchedConvolution``: a convolution split into branches that are masked, gated, left out."""

from __future__ import annotations

import math
from typing import Any

import torch
from monai.networks.layers import Conv, Norm
from torch import Tensor, nn

from .gates import DriveGate

# Layers of a block whose channels are those of its branches.
INNER = ("reduce", "branch", "expand")
_PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class BranchedConvolution(nn.Module):
    """K narrow branches beside a shortcut, summed, normalised and activated.

    A branch is a pointwise convolution to ``width`` channels, a convolution three voxels wide among
    them, instance normalisation and a leaky ReLU, and its share of a pointwise convolution to the
    outputs (split, transform, merge as in ResNeXt, https://arxiv.org/abs/1611.05431). All branches
    run as one grouped convolution. Mask and gate of a branch multiply what it adds.

    Without gradients, in eager mode, branches whose factor is 0 for every sample of a batch are
    left out of the grouped convolution and what follows; where dendrites sit on it, and in exported
    formats, the factor only multiplies.

    Args:
        dims: spatial axes.
        inputs, outputs: channels.
        stride: of each axis.
        branches: K >= 1.
        width: channels of a branch.
        gate: with a ``DriveGate``.

    Shapes: ``(B, inputs, *space) -> (B, outputs, *space / stride)``.
    """

    def __init__(
        self,
        dims: int,
        inputs: int,
        outputs: int,
        stride: list[int],
        branches: int,
        width: int,
        gate: bool,
    ) -> None:
        super().__init__()
        conv: Any = Conv[Conv.CONV, dims]
        norm: Any = Norm[Norm.INSTANCE, dims]
        wide = branches * width
        self.branches, self.width = branches, width
        self.leaves_out = True  # False runs every branch, to count or time it
        self.reduce = conv(inputs, wide, 1, bias=False)
        self.gate = DriveGate(branches, width) if gate else None
        self.branch = conv(wide, wide, 3, stride, 1, groups=branches, bias=False)
        self.norm = norm(wide, affine=True)
        self.act = nn.LeakyReLU(0.1)
        self.expand = conv(wide, outputs, 1, bias=False)
        same = inputs == outputs and math.prod(stride) == 1
        self.shortcut = nn.Identity() if same else conv(inputs, outputs, 1, stride, bias=False)
        self.out_norm = norm(outputs, affine=True)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.reduce(x)
        factor = torch.ones([1, self.branches], dtype=y.dtype, device=y.device)
        if mask is not None:
            factor = factor * mask.to(y.dtype)
        if self.gate is not None:
            factor = factor * self.gate(y).to(y.dtype)
        if not torch.jit.is_scripting():
            branches = self._without_closed(y, factor)
            if branches is not None:
                return self.act(self.out_norm(branches + self.shortcut(x)))
        y = self.act(self.norm(self.branch(y)))
        y = self.expand(y * _each_channel(factor, self.width, y))
        return self.act(self.out_norm(y + self.shortcut(x)))

    def cost(self, inside: float, outside: float) -> float:
        """Multiply-adds of one branch, with so many voxels behind and before the stride."""
        reduce: Any = self.reduce
        branch: Any = self.branch
        expand: Any = self.expand
        each = branch.weight.numel() + expand.weight.numel()
        return (reduce.weight.numel() * outside + each * inside) / self.branches

    def _without_closed(self, y: Tensor, factor: Tensor) -> Tensor | None:
        """What the open branches add; None where all are open or none may be left out."""
        recorded = torch.jit.is_tracing() or torch.compiler.is_compiling()
        parts: list[Any] = [self.branch, self.norm, self.expand]
        plain = type(parts[0]) in _PLAIN and type(parts[2]) in _PLAIN
        if not self.leaves_out or not plain or recorded or torch.is_grad_enabled():
            return None
        is_open = factor.amax(0) > 0
        if bool(is_open.all()):
            return None
        branches = is_open.nonzero().flatten()
        if len(branches) == 0:
            shape = [y.size(0), parts[2].out_channels]
            return y.new_zeros([*shape, *_strided(y, parts[0])])
        channels = channels_of(branches, self.width)
        branch, norm, expand = parts
        options = (branch.stride, branch.padding, branch.dilation, len(branches))
        run: Any = getattr(nn.functional, f"conv{y.dim() - 2}d")
        y = run(y[:, channels], branch.weight[channels], None, *options)
        affine = {"weight": norm.weight[channels], "bias": norm.bias[channels]}
        y = self.act(nn.functional.instance_norm(y, **affine, eps=norm.eps))
        y = y * _each_channel(factor[:, branches], self.width, y)
        return run(y, expand.weight[:, channels])


def channels_of(branches: Tensor, width: int) -> Tensor:
    """Indices of the channels of some branches."""
    return (branches[:, None] * width + torch.arange(width, device=branches.device)).flatten()


def _each_channel(factor: Tensor, width: int, y: Tensor) -> Tensor:
    """``(B or 1, K) -> (B or 1, K * width, 1, …)``."""
    wide = factor.repeat_interleave(width, dim=1)
    return wide.view([wide.size(0), wide.size(1)] + [1] * (y.dim() - 2))


def _strided(y: Tensor, branch: Any) -> list[int]:
    return [(n - 1) // s + 1 for n, s in zip(y.shape[2:], branch.stride, strict=True)]
