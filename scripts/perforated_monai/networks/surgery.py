"""Change a network's layers in place, and count what it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..dendrites.kind import Kind
from ..dendrites.kinds.copies import Copy
from ..dendrites.sited_layer import ImageDendriticLayer, WithImage

_READ = ("stride", "kernel_size", "padding", "dilation", "in_channels", "out_channels")


def replace_module(network: nn.Module, name: str, module: nn.Module) -> None:
    """Put ``module`` at the dotted ``name``, and wherever else the network holds the old one.

    DynUNet, for one, runs its blocks through a second tree of references to them.
    """
    old = network.get_submodule(name)
    for parent in list(network.modules()):
        for key, child in list(parent._modules.items()):
            if child is old:
                setattr(parent, key, module)


def place_dendrites(network: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """Put a layer of ``add_dendrites`` at the dotted ``name``.

    Returns:
        the network, changed in place; or a new root around it, for dendrites that read the image.
        Place those last: inside the new root names have another beginning.
    """
    if isinstance(layer, ImageDendriticLayer):
        replace_module(network, name, nn.Identity())
        return WithImage(network, layer)
    replace_module(network, name, layer)
    return network


def image_last(dendrites: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """The entries of a spec in the order in which they can be placed."""
    return sorted(dendrites.items(), key=lambda entry: entry[1].get("reads") == "image")


def add_dendrites(layer: nn.Module, count: int, activation: str, kind: Kind | None = None) -> Any:
    """A layer or MONAI ``Convolution`` block with ``count`` dendrites and fresh weights.

    Args:
        layer: used as the template.
        count: dendrites.
        activation: their non-linearity.
        kind: what they are; copies when not given. A block grows by copies alone.

    Raises:
        TypeError: for a module of another kind.
        ValueError: for a wrong count, activation or kind.
    """
    made: Any = (kind or Copy()).run(layer, count, activation)
    for name in _READ:  # a network's own forward pass may ask for them, as HoVerNet's does
        if hasattr(layer, name) and not hasattr(made, name):
            setattr(made, name, getattr(layer, name))
    return made


def dendrites_entry(layer: Any) -> dict[str, Any]:
    """The entry of a layer of ``add_dendrites`` in a network spec."""
    kind: Kind = getattr(layer, "kind", Copy())
    return {"count": layer.count, **kind.entry(), "activation": layer.activation}


def count_parameters(network: nn.Module) -> int:
    """Number of parameters of a plain network (shared ones once)."""
    return sum(p.numel() for p in network.parameters())
