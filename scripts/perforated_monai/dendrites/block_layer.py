"""``DendriticBlock``: a MONAI ``Convolution`` block and its dendrites, fused where exact."""

from __future__ import annotations

import copy
from typing import Any

import torch
from monai.networks.blocks import Convolution, MemoryEfficientSwish, Mish, Swish
from torch import Tensor, nn

from .formula import dendritic_sum
from .layer import DendriticLayer

_PER_CHANNEL = (
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
)
_ELEMENTWISE = (
    *(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Hardswish, Swish, MemoryEfficientSwish, Mish),
)


class DendriticBlock(DendriticLayer):
    r"""A convolution with its normalisation, dropout and activation, grown as a whole.

    The formula is that of ``DendriticLayer``; here main and every dendrite are copies of the whole
    block. Their convolutions run as one with (D + 1)·C outputs. What follows runs once over all
    branches where each channel or group of channels is on its own (instance, batch and group
    normalisation, dropout, element-wise activations, PReLU), and branch by branch elsewhere.

    Args:
        block: ``monai.networks.blocks.Convolution`` with C outputs: ``(B, C_in, *space) ->
            (B, C, *space')``; used as the template and copied.
        count: number of dendrites D >= 1.
        activation: f, ``sigmoid``, ``tanh``, ``relu`` or ``identity``; it comes on top of the
            block's own activation.

    Raises:
        TypeError: for another kind of module.
        ValueError: for count < 1 or an unknown activation f.
    """

    def __init__(self, block: nn.Module, count: int, activation: str = "sigmoid") -> None:
        if not isinstance(block, Convolution):
            msg = f"DendriticBlock takes MONAI's Convolution; got {type(block).__name__}."
            raise TypeError(msg)
        convolution: Any = block.conv
        super().__init__(convolution, count, activation)
        self.adn = nn.Sequential()
        for name, step in _steps(block).items():
            self.adn.add_module(name, _wide_step(step, count + 1))

    def forward(self, x: Tensor) -> Tensor:
        wide = self.wide(x)
        if self.groups > 1:  # outputs interleave by group: put branch after branch
            apart = wide.unflatten(1, [self.groups, self.count + 1, self.channels // self.groups])
            wide = apart.transpose(1, 2).flatten(1, 3)
        parts = list(torch.split(self.adn(wide), self.channels, dim=1))
        return dendritic_sum(parts, self.to_output, self.between, self.activation, False)

    def load_branches(self, layers: list[nn.Module], to_output: Tensor, between: Tensor) -> None:
        """Fill in trained weights and running statistics; arguments as in ``DendriticLayer``."""
        convolutions: list[Any] = [b.conv for b in layers]
        super().load_branches(convolutions, to_output, between)
        steps = [_steps(b) for b in layers]
        with torch.no_grad():
            for name, wide in self.adn.named_children():
                _load_step(wide, [s[name] for s in steps])


class BranchPReLU(nn.Module):
    """PReLU over D + 1 branches side by side, each with its own slopes ``weight[i]``."""

    def __init__(self, prelu: nn.PReLU, branches: int) -> None:
        super().__init__()
        weight = prelu.weight.detach()
        self.weight = nn.Parameter(weight.expand(branches, -1).clone())

    def forward(self, x: Tensor) -> Tensor:
        channels = x.size(1) // self.weight.size(0)
        slopes = self.weight.to(x.dtype).repeat_interleave(channels // self.weight.size(1), dim=1)
        return torch.prelu(x, slopes.flatten())


class Branches(nn.Module):
    """A module that mixes channels: its copies, one for each branch."""

    def __init__(self, module: nn.Module, branches: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(copy.deepcopy(module) for _ in range(branches))

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.chunk(x, len(self.branches), dim=1)
        out: list[Tensor] = []
        for i, module in enumerate(self.branches):
            out.append(module(parts[i]))
        return torch.cat(out, dim=1)


def _steps(block: Any) -> dict[str, Any]:
    """What follows the convolution, in order; empty for ``conv_only``."""
    return dict(block.adn.named_children()) if hasattr(block, "adn") else {}


def _wide_step(step: Any, branches: int) -> nn.Module:
    if type(step) in _ELEMENTWISE:
        return copy.deepcopy(step)
    if type(step) is nn.PReLU:
        return BranchPReLU(step, branches)
    if type(step) in _PER_CHANNEL:
        return _widened_norm(step, step.num_features * branches)
    if type(step) is nn.GroupNorm:
        like = _like(step)
        channels, groups = step.num_channels * branches, step.num_groups * branches
        return nn.GroupNorm(groups, channels, step.eps, step.affine, **like)
    return Branches(step, branches)


def _widened_norm(step: Any, features: int) -> nn.Module:
    options = {n: getattr(step, n) for n in ("eps", "momentum", "affine", "track_running_stats")}
    return type(step)(features, **options, **_like(step))


def _like(step: nn.Module) -> dict[str, Any]:
    tensors = [*step.parameters(), *step.buffers()]
    return {"device": tensors[0].device, "dtype": tensors[0].dtype} if tensors else {}


def _load_step(wide: nn.Module, steps: list[Any]) -> None:
    if isinstance(wide, Branches):
        for target, step in zip(wide.branches, steps, strict=True):
            target.load_state_dict(step.state_dict())
        return
    for name, target in wide.state_dict().items():
        tensors = [s.state_dict()[name] for s in steps]
        if target.dim() == 0:  # num_batches_tracked
            target.copy_(tensors[0])
        elif isinstance(wide, BranchPReLU):
            target.copy_(torch.stack(tensors))
        else:
            target.copy_(torch.cat(tensors))
