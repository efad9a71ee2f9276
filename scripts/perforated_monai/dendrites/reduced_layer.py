"""``ReducedDendriticLayer``: a layer and dendrites cheaper than it, fused; torch only."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .branches import Dendrite
from .convolutions import (
    TRANSPOSED,
    load_side_by_side,
    plain_class,
    run_convolution,
    run_layer,
    widened,
)
from .formula import dendritic_sum, expect_formula


class ReducedDendriticLayer(nn.Module):
    r"""A layer with D dendrites of a kind that costs less than a copy.

    The formula is that of ``DendriticLayer``. The layer runs as it is; each convolution of the
    dendrites runs once for all D: the first with D times the outputs, for all read the same input,
    a second one in D times the groups.

    Args:
        layer: ``Conv1d/2d/3d``, ``ConvTranspose1d/2d/3d`` or ``Linear`` with C outputs; the
            template, not changed. Input and output shapes are the layer's own.
        count: number of dendrites D >= 1.
        one: a dendrite of the layer, made by its kind; the template, not changed.
        activation: ``sigmoid``, ``tanh``, ``relu`` or ``identity``.

    Raises:
        TypeError: for another kind of layer.
        ValueError: for count < 1 or an unknown activation.
    """

    def __init__(
        self, layer: nn.Module, count: int, one: Dendrite, activation: str = "sigmoid"
    ) -> None:
        super().__init__()
        expect_formula(count, activation)
        self.count = count
        self.activation = activation
        self.kind = one.kind
        self.linear = isinstance(layer, nn.Linear)
        self.main = widened(layer, 1)
        outputs: Any = self.main.out_features if self.linear else self.main.out_channels
        self.channels = int(outputs)
        self.stages = nn.Sequential(*_fused(one, count))
        reference: Any = layer.weight
        self.to_output = nn.Parameter(reference.new_zeros(count, self.channels))
        self.between = nn.Parameter(reference.new_zeros(count * (count - 1) // 2, self.channels))

    def forward(self, x: Tensor) -> Tensor:
        wide = self._dendrites(x)
        split = torch.split(wide, self.channels, dim=-1 if self.linear else 1)
        parts = [self._main(x)]
        for part in split:
            parts.append(part)
        return dendritic_sum(parts, self.to_output, self.between, self.activation, self.linear)

    def _main(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            return run_layer(self.main, x)
        return self.main(x)

    def _dendrites(self, x: Tensor) -> Tensor:
        """Outputs of all dendrites side by side."""
        if not torch.jit.is_scripting():
            for stage in self.stages:
                x = run_layer(stage, x)
            return x
        return self.stages(x)

    def load_branches(self, layers: list[nn.Module], to_output: Tensor, between: Tensor) -> None:
        """Fill in trained weights.

        Args:
            layers: main layer and its D dendrites, made by the kind.
            to_output: w, ``(D, C)``.
            between: rows v_10, v_20, v_21, …, ``(D(D-1)/2, C)``.
        """
        if len(layers) != self.count + 1:
            msg = f"expected 1 main layer and {self.count} dendrites; got {len(layers)} layers."
            raise ValueError(msg)
        dendrites = [list(_weighted(d)) for d in layers[1:]]
        with torch.no_grad():
            load_side_by_side(self.main, layers[:1])
            for i, fused in enumerate(_weighted(self.stages)):
                _load(fused, [d[i] for d in dendrites], first=i == 0)
            self.to_output.copy_(to_output)
            self.between.copy_(between)

    def dendrites(self) -> list[Dendrite]:
        """The D dendrites apart, each with its weights."""
        made: list[Any] = [self.kind.make(self.main) for _ in range(self.count)]
        apart = [list(_weighted(d)) for d in made]
        with torch.no_grad():
            for i, fused in enumerate(_weighted(self.stages)):
                _unload(fused, [d[i] for d in apart], first=i == 0)
        return made


class JoinedDendriticLayer(ReducedDendriticLayer):
    """Low-rank dendrites whose kernel comes first: it runs with the layer's, as one convolution.

    A convolution of few outputs takes a CPU nearly as long as one of many, so that this saves what
    the dendrites' first stage would take. Tensors and outputs are those of the class above.
    """

    def forward(self, x: Tensor) -> Tensor:
        both = self._both(x)
        parts = [both[:, : self.channels]]
        rest = self._second(both[:, self.channels :])
        for part in torch.split(rest, self.channels, dim=1):
            parts.append(part)
        return dendritic_sum(parts, self.to_output, self.between, self.activation, False)

    def _both(self, x: Tensor) -> Tensor:
        """Main output and, behind it, what the dendrites' first convolution gives."""
        # TorchScript takes no cast to Any here, and mypy takes a module's attributes for anything.
        first = self.stages[0].weight
        weight = torch.cat([self.main.weight, first])  # type: ignore[list-item]
        bias = self.main.bias
        if bias is not None:
            zeros = bias.new_zeros(first.size(0))  # type: ignore[operator]
            bias = torch.cat([bias, zeros])  # type: ignore[list-item]
        if not torch.jit.is_scripting():
            return run_convolution(self.main, x, weight, bias)
        return self.main._conv_forward(x, weight, bias)  # type: ignore[operator]

    def _second(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            return run_layer(self.stages[1], x)
        return self.stages[1](x)


class BranchOrder(nn.Module):
    """Channels group after group, D branches in each -> branch after branch."""

    def __init__(self, groups: int, branches: int) -> None:
        super().__init__()
        self.groups, self.branches = groups, branches

    def forward(self, x: Tensor) -> Tensor:
        width = x.size(1) // (self.groups * self.branches)
        apart = x.unflatten(1, [self.groups, self.branches, width])
        return apart.transpose(1, 2).flatten(1, 3)


class LinearBranches(nn.Module):
    """D Linear layers, each on its own part of the last axis: ``(..., D·in) -> (..., D·out)``."""

    def __init__(self, layer: nn.Linear, branches: int) -> None:
        super().__init__()
        self.branches, self.in_features = branches, layer.in_features
        self.bias: Tensor | None
        weight = layer.weight.detach()
        self.weight = nn.Parameter(weight.expand(branches, -1, -1).clone())
        bias = None if layer.bias is None else layer.bias.detach().expand(branches, -1).clone()
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias))

    def forward(self, x: Tensor) -> Tensor:
        apart = x.unflatten(-1, [self.branches, self.in_features]).unsqueeze(-2)
        out = torch.matmul(apart, self.weight.transpose(1, 2)).squeeze(-2)
        if self.bias is not None:
            out = out + self.bias
        return out.flatten(-2)


def _weighted(stages: nn.Module) -> Iterator[Any]:
    return (stage for stage in stages.children() if list(stage.parameters()))


def _fused(one: Dendrite, count: int) -> Iterator[nn.Module]:
    """The stages of one dendrite -> those that run D of them at once."""
    first = True
    for stage in one:
        if not list(stage.parameters()):
            yield copy.deepcopy(stage)
        elif first:
            first = False
            yield widened(stage, count)
            groups: Any = getattr(stage, "groups", 1)
            if groups > 1 and count > 1:
                yield BranchOrder(groups, count)
        else:
            yield _beside(stage, count)


def _beside(stage: Any, count: int) -> nn.Module:
    """D layers, each on its own channels, as one: convolutions in D times the groups."""
    if isinstance(stage, nn.Linear):
        return LinearBranches(stage, count)
    names = ["kernel_size", "stride", "padding", "dilation"]
    names += ["output_padding"] if isinstance(stage, TRANSPOSED) else ["padding_mode"]
    made: nn.Module = plain_class(stage)(
        stage.in_channels * count,
        stage.out_channels * count,
        groups=stage.groups * count,
        bias=stage.bias is not None,
        device=stage.weight.device,
        dtype=stage.weight.dtype,
        **{name: getattr(stage, name) for name in names},
    )
    return made


def _load(fused: Any, stages: list[Any], first: bool) -> None:
    if first:
        load_side_by_side(fused, stages)
        return
    join = torch.stack if isinstance(fused, LinearBranches) else torch.cat
    fused.weight.copy_(join([s.weight for s in stages]))
    if fused.bias is not None:
        fused.bias.copy_(join([s.bias for s in stages]))


def _unload(fused: Any, stages: list[Any], first: bool) -> None:
    count = len(stages)
    groups = getattr(fused, "groups", 1) if first else 1
    for name in ("weight", "bias"):
        tensor = getattr(fused, name)
        if tensor is None:
            continue
        if isinstance(fused, LinearBranches):
            parts = list(tensor)
        elif first and isinstance(fused, TRANSPOSED) and name == "weight":
            parts = list(tensor.chunk(count, dim=1))
        else:
            by_group = tensor.unflatten(0, (groups, -1))
            parts = [p.flatten(0, 1) for p in by_group.chunk(count, dim=1)]
        for stage, part in zip(stages, parts, strict=True):
            getattr(stage, name).copy_(part)
