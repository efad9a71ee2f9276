"""From a network grown by the tracker to a plain one with the same outputs; torch only."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..dendrites.branches import Dendrite
from ..dendrites.kind import Kind
from ..dendrites.kinds.apical import ApicalDendrite
from ..dendrites.kinds.copies import Copy
from ..dendrites.sited_layer import WithImage
from ..dendrites.sites import ImageSite, drop_hooks, image_sites
from ..dendrites.wrapped import (
    base_layer,
    between_rows,
    dendrite_count,
    dendrites_of,
    drop_text_buffer,
    output_weights,
    wrapped_modules,
)
from ..errors import UserError
from ..networks.surgery import add_dendrites, replace_module


def make_plain(network: nn.Module, activation: str) -> dict[str, int]:
    """Replace every module wrapped by perforatedai, in place, by a plain or a dendritic one.

    Dendrites that read the image keep their site and the hook of the root, so that the network
    stays the object that a trainer holds; ``without_hooks`` makes a network of modules alone.

    Args:
        network: grown network.
        activation: of its dendrites.

    Returns:
        dendrites of each layer that has some.

    Raises:
        UserError: for dendrites on a module that is no layer or block of ``add_dendrites``.
    """
    counts: dict[str, int] = {}
    for name, module in wrapped_modules(network):
        count = dendrite_count(module)
        main = base_layer(network, name, module)
        if count == 0:
            replace_module(network, name, main)
            continue
        try:
            layer = add_dendrites(main, count, activation, kind_of(module))
        except TypeError as error:
            msg = f"Dendrites on {name!r} cannot be exported: {error} Take it out of layer_types."
            raise UserError(msg) from None
        layer.load_branches(
            [main, *dendrites_of(module)],
            output_weights(module).detach(),
            between_rows(module, count, layer.channels),
        )
        layer.train(module.training)
        site = network.get_submodule(name)
        if isinstance(site, ImageSite):
            site.dendritic_sum = layer
        else:
            replace_module(network, name, layer)
        counts[name] = count
    if not image_sites(network):
        drop_hooks(network)
    drop_text_buffer(network)
    return counts


def without_hooks(network: nn.Module) -> nn.Module:
    """The network of ``make_plain`` as modules alone; itself where no dendrite reads the image."""
    for name, site in image_sites(network):
        replace_module(network, name, nn.Identity())
        drop_hooks(network)
        return WithImage(network, site.dendritic_sum).train(network.training)  # type: ignore[arg-type]
    return network


def dendritic_layer(network: nn.Module, name: str) -> nn.Module:
    """The layer with dendrites at a name of the base network, after ``make_plain``."""
    module = network.get_submodule(name)
    return module.dendritic_sum if isinstance(module, ImageSite) else module


def kind_of(module: Any) -> Kind:
    """The kind of a wrapped layer's dendrites."""
    first = dendrites_of(module)[0]
    return first.kind if isinstance(first, (Dendrite, ApicalDendrite)) else Copy()


def delta_of(network: nn.Module) -> dict[str, Tensor]:
    """Tensors of the dendrites of a network grown by the tracker.

    ``<layer>.dendrites.<i>.<name>`` is a dendrite's own tensor, ``<layer>.to_output`` is w
    ``(D, C)`` and ``<layer>.between`` v ``(D(D-1)/2, C)`` of ``DendriticLayer``.
    """
    tensors: dict[str, Tensor] = {}
    for layer, module in wrapped_modules(network):
        count = dendrite_count(module)
        if count == 0:
            continue
        for i, dendrite in enumerate(dendrites_of(module)):
            tensors |= {f"{layer}.dendrites.{i}.{k}": v for k, v in dendrite.state_dict().items()}
        to_output = output_weights(module)
        tensors[f"{layer}.to_output"] = to_output
        tensors[f"{layer}.between"] = between_rows(module, count, to_output.size(1))
    return {name: tensor.detach() for name, tensor in tensors.items()}
