"""What a network grown by the tracker holds: wrapped layers, dendritic parameters, their number."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from .sites import LAYER, SUM, Main

# The library's names for a layer and its copies, inside the layer's own name.
_COPY = re.compile(
    rf"(\.{SUM})?\.main_module(\.{LAYER})?\.|\.{LAYER}\.|(\.{SUM})?\.dendrite_module\.layers\.\d+\."
)
# Where a base layer's tensors stand in a grown network, behind the layer's own name.
_INSIDE = (
    ("main_module",),
    (LAYER,),
    (SUM, "main_module", LAYER),
)
_NOT_REDUCED = re.compile(
    r"(^|\.)(parent_module\.|dendrites_to_candidates|dendrites_to_dendrites\.0$|tracker_string$"
    r"|dendrite_values\b)"
)


def wrapped_modules(network: nn.Module) -> list[tuple[str, Any]]:
    """Layers wrapped by perforatedai, by their name in the base network."""
    return [
        (n.removesuffix(f".{SUM}"), m)
        for n, m in network.named_modules()
        if type(m).__name__ == "PAINeuronModule"
    ]


def is_sited(module: Any) -> bool:
    """Whether the dendrites of a wrapped module read an output or the image, at a site."""
    return isinstance(module.main_module, Main)


def wrapped_name(name: str, sited: bool) -> str:
    """Where the tracker finds what it wraps for a layer of the base network."""
    return f"{name}.{SUM}" if sited else name


def base_layer(network: nn.Module, name: str, module: Any) -> nn.Module:
    """The layer of the base network at ``name``, where ``module`` is what wraps it."""
    if not is_sited(module):
        return main_layer(module)
    site = network.get_submodule(name)
    inside: nn.Module = getattr(site, LAYER, None) or getattr(module.main_module, LAYER)
    return inside


def dendrite_count(module: Any) -> int:
    """Dendrites of a wrapped layer."""
    return int(module.dendrite_modules_added)


def has_learned(module: Any) -> bool:
    """Whether a gradient has come through a wrapped layer; the library grows no other."""
    values = module.dendrite_module.dendrite_values
    return all(hasattr(value, "dendrite_storage_shape") for value in values)


def main_layer(module: Any) -> nn.Module:
    """The layer that is wrapped."""
    layer: nn.Module = module.main_module
    return layer


def dendrites_of(module: Any) -> list[nn.Module]:
    """The dendrites of a wrapped layer, the oldest first."""
    return list(module.dendrite_module.layers)


def output_weights(module: Any) -> Tensor:
    """W ``(D, C)``: what each dendrite adds to each output channel of its layer."""
    weights: Tensor = module.dendrites_to_top[-1]  # those before are superseded
    return weights


def between_rows(module: Any, count: int, channels: int) -> Tensor:
    """V ``(D(D-1)/2, C)``: the library's entry i is ``(i, C)``, and its entry 0 is empty."""
    entries = module.dendrite_module.dendrites_to_dendrites
    rows = [entries[i].detach().reshape(i, channels) for i in range(1, count)]
    return torch.cat(rows) if rows else output_weights(module).new_zeros(0, channels)


def train_dendrites(network: nn.Module) -> None:
    """Let dendrites train: the library leaves their own weights without gradient."""
    for _, module in wrapped_modules(network):
        for dendrite in dendrites_of(module):
            dendrite.requires_grad_(True)


def drop_text_buffer(network: nn.Module) -> None:
    """Take away the buffer in which the library keeps text about itself."""
    if hasattr(network, "tracker_string"):
        del network.tracker_string


def base_name(name: str) -> str:
    """A parameter of a wrapped layer or of a copy of it -> its name in the base network."""
    return _COPY.sub(".", name)


def is_never_reduced(name: str) -> bool:
    """Whether a parameter or buffer never gets a gradient, or differs in size between ranks."""
    return _NOT_REDUCED.search(name) is not None


def is_dendritic(name: str) -> bool:
    """Whether a parameter came, or grows, with dendrites; its shape depends on their number."""
    return ".dendrites_to_top" in name or ".dendrites_to_dendrites" in name


def is_part_of_dendrite(name: str) -> bool:
    """Whether a parameter or module lies in a dendrite, or is a weight of the dendritic sum."""
    return ".dendrite_module" in name or ".dendrites_to_top" in name


def unwrapped(state: Mapping[str, Tensor], layers: Iterable[str]) -> dict[str, Tensor]:
    """The state dict of a network without dendrites, as if ``layers`` had never been wrapped."""
    tensors: dict[str, Tensor] = {}
    prefixes = [f"{layer}." for layer in layers]
    for name, tensor in state.items():
        prefix = next((p for p in prefixes if name.startswith(p)), None)
        if prefix is None:
            tensors[name] = tensor
            continue
        for inside in _INSIDE:
            start = prefix + ".".join(inside) + "."
            if name.startswith(start):
                tensors[prefix + name.removeprefix(start)] = tensor
    return tensors


def base_tensors(network: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Live parameters and buffers of a grown network by their names in the base network.

    Raises:
        KeyError: for a name that the network does not have.
    """
    live = network.state_dict(keep_vars=True)
    return {name: live[grown_name(name, live)] for name in names}


def grown_name(name: str, live: Mapping[str, Tensor]) -> str:
    """``a.b.weight`` -> ``a.b.main_module.weight`` where ``a.b`` (or ``a``) is wrapped.

    Raises:
        KeyError: for a name that ``live``, tensors of a grown network, does not have.
    """
    parts = name.split(".")
    if name in live:
        return name
    for i in range(len(parts) - 1, 0, -1):
        for inside in _INSIDE:
            inner = ".".join([*parts[:i], *inside, *parts[i:]])
            if inner in live:
                return inner
    raise KeyError(name)


def is_scaffold(name: str) -> bool:
    """Whether a parameter only serves the library: never trained, not in the exported network."""
    return ".parent_module." in name or ".dendrites_to_candidates" in name


def count_grown_parameters(network: nn.Module) -> int:
    """Parameters used at inference: templates and superseded rows of ``dendrites_to_top`` left out.

    ``perforatedai.count_params`` still includes the latter (34 against 30 on Linear(3, 2), D = 2).
    """
    stale = set()
    for _, module in wrapped_modules(network):
        stale |= {id(p) for p in list(module.dendrites_to_top)[:-1]}
    named = network.named_parameters()
    return sum(p.numel() for n, p in named if not is_scaffold(n) and id(p) not in stale)


def refuse_other_network(network: nn.Module, state: dict[str, Tensor]) -> None:
    """Refuse another shape: the library loads such tensors without a word when all names fit."""
    wrong = [
        f"{name} is {tuple(state[name].shape)}, the network has {tuple(tensor.shape)}"
        for name, tensor in network.named_parameters()
        if name in state and not is_dendritic(name) and state[name].shape != tensor.shape
    ]
    if wrong:
        shown = "; ".join(wrong[:3])
        msg = f"The checkpoint is of another network ({len(wrong)} tensors: {shown})."
        raise UserError(msg)
