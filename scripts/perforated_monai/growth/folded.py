"""A plain network as its spec names it, without masked branches: for export and for studies."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from torch import nn

from ..dendrites.layer import DendriticLayer
from ..dendrites.reduced_layer import ReducedDendriticLayer
from ..dendrites.sited_layer import SitedDendriticLayer
from ..dendrites.sites import image_sites
from ..networks.build import build_network
from ..networks.catalogue import SparseUNet
from ..networks.fold import fold
from ..networks.spec import plain_spec
from ..networks.surgery import dendrites_entry
from .to_plain import dendritic_layer, without_hooks

_GROWN = (DendriticLayer, ReducedDendriticLayer, SitedDendriticLayer)


def folded(
    base: dict[str, Any], plain: nn.Module, grown: Iterable[str]
) -> tuple[dict[str, Any], nn.Module]:
    """Spec, and the network built from it with the weights of a plain one.

    Args:
        base: of the spec.
        plain: what ``make_plain`` left; its hooks go.
        grown: names of its layers that have dendrites.

    Raises:
        UserError: as ``fold``.
    """
    dendrites = {name: dendrites_entry(dendritic_layer(plain, name)) for name in grown}
    device = next(plain.parameters()).device
    plain = without_hooks(plain)
    spec = {**plain_spec(base), "dendrites": dendrites}
    network = build_network(spec)
    network.load_state_dict(plain.state_dict(), strict=True)
    return fold(spec, network.to(device).train(plain.training))


def without_masks(network: nn.Module) -> nn.Module:
    """The plain network of ``make_plain`` without its masked branches; itself without masks.

    Args:
        network: as training ends with it; left as it is.

    Raises:
        UserError: as ``fold``.
    """
    if not isinstance(network, SparseUNet) or network.masks is None:
        return network
    sites = [name for name, _ in image_sites(network)]
    layers = [name for name, layer in network.named_modules() if isinstance(layer, _GROWN)]
    grown = [*sites, *(name for name in layers if name.rpartition(".")[0] not in sites)]
    base = {"name": "SparseUNet", **network.arguments}
    return folded(base, copy.deepcopy(network), grown)[1]
