"""Kinds of dendrites beside a copy of the layer, which layer may have which, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from .config import KINDS
from .layer import FUSIBLE, TRANSPOSED

_SHARE = 0.15  # of its layer's weights: what a low-rank dendrite may cost where no rank is given
_FEWEST_GROUPS = 4  # one set costs at most a quarter of its layer where no number is given


class UnfitError(ValueError):
    """A layer has no dendrite of this kind that costs less than a copy of it."""


@dataclass(frozen=True)
class Kind:
    """A kind of dendrite with the numbers that its shape needs.

    Attributes:
        name: one of ``config.KINDS``.
        groups: of ``grouped``; 0 where it is chosen for each layer.
        rank: of ``low_rank``, in channels; 0 where it is chosen for each layer.
    """

    name: str = "copy"
    groups: int = 0
    rank: int = 0

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Kind:
        """Of a layer's entry in a network spec; one without ``kind`` is a copy.

        Raises:
            ValueError: for an unknown kind, or a number that is missing, wrong or not the kind's.
        """
        name = entry.get("kind", "copy")
        if name not in KINDS:
            msg = f"kind must be one of {', '.join(KINDS)}; got {name!r}."
            raise ValueError(msg)
        numbers: dict[str, int] = {}
        for key, owner in (("groups", "grouped"), ("rank", "low_rank")):
            value: Any = entry.get(key)
            if owner == name and (type(value) is not int or value < 1):
                msg = f"kind {name} needs {key}, a whole number >= 1; got {value!r}."
                raise ValueError(msg)
            if owner != name and value is not None:
                msg = f"{key} belongs to kind {owner}; got {key} {value!r} with kind {name}."
                raise ValueError(msg)
            if owner == name:
                numbers[key] = value
        return cls(name, **numbers)

    def entry(self) -> dict[str, Any]:
        """Its part of a layer's entry in a network spec."""
        numbers = {"groups": self.groups, "rank": self.rank}
        return {"kind": self.name, **{k: v for k, v in numbers.items() if v}}


def resolve(layer: nn.Module, kind: Kind) -> Kind:
    """The kind with its numbers for one layer.

    Without a number, ``grouped`` takes the smallest number of groups >= 4 that divides both channel
    counts, and ``low_rank`` the largest rank whose cost is at most 15 % of the layer's, or 1.

    Raises:
        UnfitError: with the reason, where the layer has no such dendrite cheaper than a copy.
        TypeError: for a module that is no convolution or Linear.
    """
    if not isinstance(layer, FUSIBLE):
        msg = f"kind {kind.name} takes convolutions and Linear; got {type(layer).__name__}."
        raise TypeError(msg)
    if kind.name == "copy":
        return kind
    shape = Shape.of(layer)
    if isinstance(layer, nn.Linear) and kind.name != "low_rank":
        msg = f"a Linear layer has no {kind.name} dendrite"
        raise UnfitError(msg)
    if kind.name == "grouped":
        return Kind("grouped", groups=_groups(shape, kind.groups))
    if kind.name == "low_rank":
        return Kind("low_rank", rank=_rank(shape, kind.rank))
    if shape.taps == 1:
        msg = f"its kernel has one tap, so that a {kind.name} dendrite would not be smaller"
        raise UnfitError(msg)
    if kind.name == "pointwise":
        _refuse_padding(layer)
    if kind.name == "depthwise":
        _refuse_groups(shape, kind.name)
        if shape.separable() >= shape.weights():
            msg = "with so few channels a depthwise dendrite would not be smaller"
            raise UnfitError(msg)
    return kind


def cost_of(layer: Any, kind: Kind) -> int:
    """Parameters that one dendrite adds: its own and one output weight a channel.

    Raises:
        UnfitError, TypeError: see ``resolve``.
    """
    if kind.name == "copy":
        own: int = sum(p.numel() for p in layer.parameters())
        return own + Shape.of(layer).outputs
    found, shape = resolve(layer, kind), Shape.of(layer)
    weights = {
        "depthwise": shape.separable(),
        "pointwise": shape.inputs * shape.outputs // shape.groups,
        "grouped": shape.taps * shape.inputs * shape.outputs // max(found.groups, 1),
        "low_rank": found.rank * shape.one_rank()[0],
    }[found.name]
    return weights + shape.outputs * (1 if layer.bias is None else 2)


@dataclass(frozen=True)
class Shape:
    """Sizes that decide which kinds a layer may have."""

    inputs: int
    outputs: int
    taps: int
    groups: int
    transposed: bool

    @classmethod
    def of(cls, layer: Any) -> Shape:
        layer = getattr(layer, "conv", layer)  # of a MONAI Convolution block
        if isinstance(layer, nn.Linear):
            return cls(layer.in_features, layer.out_features, 1, 1, False)
        taps = math.prod(layer.kernel_size)
        transposed = isinstance(layer, TRANSPOSED)
        return cls(layer.in_channels, layer.out_channels, taps, layer.groups, transposed)

    def weights(self) -> int:
        return self.taps * self.inputs * self.outputs // self.groups

    def separable(self) -> int:
        spatial = self.inputs if self.depthwise_first() else self.outputs
        return self.taps * spatial + self.inputs * self.outputs

    def depthwise_first(self) -> bool:
        return not self.transposed and self.inputs <= self.outputs

    def one_rank(self) -> tuple[int, bool]:
        """Weights of rank 1, and whether the kernel comes first."""
        first = self.taps * self.inputs + self.outputs
        last = self.inputs + self.taps * self.outputs
        kernel_first = first < last or (first == last and not self.transposed)
        return min(first, last), kernel_first


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
    found = next((g for g in fitting if common % g == 0), None)
    if found is None:
        msg = (
            f"no number of groups from {_FEWEST_GROUPS * shape.groups} on divides its "
            f"{shape.inputs} input and {shape.outputs} output channels"
        )
        raise UnfitError(msg)
    return found


def _rank(shape: Shape, wanted: int) -> int:
    _refuse_groups(shape, "low_rank")
    one, _ = shape.one_rank()
    rank = wanted or max(1, int(_SHARE * shape.weights() / one))
    if rank * one >= shape.weights():
        msg = f"rank {rank} would not be smaller than the layer's {shape.weights()} weights"
        raise UnfitError(msg)
    return rank


def _refuse_groups(shape: Shape, name: str) -> None:
    if shape.groups > 1:
        msg = f"a layer with {shape.groups} groups has no {name} dendrite"
        raise UnfitError(msg)


def _refuse_padding(layer: Any) -> None:
    if layer.padding_mode == "zeros" or isinstance(layer, TRANSPOSED):
        return
    if any(p > 0 for pair in middle_pads(layer) for p in pair):
        msg = f"its {layer.padding_mode} padding reaches beyond the middle of its kernel"
        raise UnfitError(msg)


def middle_pads(layer: Any) -> list[tuple[int, int]]:
    """What makes the first output of a pointwise convolution see the middle of the first window."""
    pads = []
    for axis, size in enumerate(layer.kernel_size):
        dilation = layer.dilation[axis]
        reach = dilation * (size - 1)
        before = after = 0
        if layer.padding == "same":
            before, after = reach // 2, reach - reach // 2
        elif not isinstance(layer.padding, str):
            before = after = layer.padding[axis]
        middle = dilation * ((size - 1) // 2)
        pads.append((before - middle, after - (reach - middle)))
    return pads
