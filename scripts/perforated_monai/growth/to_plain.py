"""From a network grown by the tracker to a plain one with the same outputs; torch only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..dendrites.branches import Dendrite
from ..dendrites.kind import Kind
from ..dendrites.kinds.copies import Copy
from ..dendrites.wrapped import wrapped_modules
from ..errors import UserError
from ..networks.surgery import add_dendrites, replace_module


def make_plain(network: nn.Module, activation: str) -> dict[str, int]:
    """Replace every module wrapped by perforatedai, in place, by a plain or a dendritic one.

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
        count = int(module.dendrite_modules_added)
        main = module.main_module
        if count == 0:
            replace_module(network, name, main)
            continue
        try:
            layer = add_dendrites(main, count, activation, kind_of(module))
        except TypeError as error:
            msg = f"Dendrites on {name!r} cannot be exported: {error} Take it out of layer_types."
            raise UserError(msg) from None
        layer.load_branches(
            [main, *module.dendrite_module.layers],
            module.dendrites_to_top[-1].detach(),
            between_rows(module, count, layer.channels),
        )
        layer.train(module.training)
        replace_module(network, name, layer)
        counts[name] = count
    network._buffers.pop("tracker_string", None)
    return counts


def kind_of(module: Any) -> Kind:
    """The kind of a wrapped layer's dendrites."""
    first = module.dendrite_module.layers[0]
    return first.kind if isinstance(first, Dendrite) else Copy()


def between_rows(module: Any, count: int, channels: int) -> Tensor:
    """v_ij of ``dendrites_to_dendrites``, whose entry i is ``(i, C)`` and entry 0 is empty."""
    entries = module.dendrite_module.dendrites_to_dendrites
    rows = [entries[i].detach().reshape(i, channels) for i in range(1, count)]
    reference = module.dendrites_to_top[-1]
    return torch.cat(rows) if rows else reference.new_zeros(0, channels)


def delta_of(network: nn.Module) -> dict[str, Tensor]:
    """Tensors of the dendrites of a network grown by the tracker.

    ``<layer>.dendrites.<i>.<name>`` is a dendrite's own tensor, ``<layer>.to_output`` is w
    ``(D, C)`` and ``<layer>.between`` v ``(D(D-1)/2, C)`` of ``DendriticLayer``.
    """
    found: dict[str, Tensor] = {}
    for layer, module in wrapped_modules(network):
        count = int(module.dendrite_modules_added)
        if count == 0:
            continue
        for i, dendrite in enumerate(module.dendrite_module.layers):
            found |= {f"{layer}.dendrites.{i}.{k}": v for k, v in dendrite.state_dict().items()}
        to_output = module.dendrites_to_top[-1]
        found[f"{layer}.to_output"] = to_output
        found[f"{layer}.between"] = between_rows(module, count, to_output.size(1))
    return {name: tensor.detach() for name, tensor in found.items()}
