"""The network that export would make of one in training whose branches are masked."""

from __future__ import annotations

import copy

from torch import nn

from ..dendrites.layer import DendriticLayer
from ..dendrites.reduced_layer import ReducedDendriticLayer
from ..dendrites.sited_layer import SitedDendriticLayer
from ..dendrites.sites import ImageSite
from ..networks.build import build_network
from ..networks.catalogue import SparseUNet
from ..networks.fold import fold
from ..networks.spec import plain_spec
from ..networks.surgery import dendrites_entry
from .to_plain import without_hooks

_GROWN = (DendriticLayer, ReducedDendriticLayer, SitedDendriticLayer)


def without_masks(network: nn.Module) -> nn.Module:
    """The plain network of ``make_plain`` without its masked branches; itself without masks.

    Args:
        network: as training ends with it; left as it is.

    Raises:
        UserError: as ``fold``.
    """
    if not isinstance(network, SparseUNet) or network.masks is None:
        return network
    plain: nn.Module = copy.deepcopy(network)
    dendrites = {}
    for name, layer in plain.named_modules():
        if isinstance(layer, ImageSite):
            dendrites[name] = dendrites_entry(layer.dendritic_sum)
        elif isinstance(layer, _GROWN) and name.rpartition(".")[0] not in dendrites:
            dendrites[name] = dendrites_entry(layer)
    spec = {**plain_spec({"name": "SparseUNet", **network.arguments}), "dendrites": dendrites}
    made = build_network(spec)
    made.load_state_dict(without_hooks(plain).state_dict(), strict=True)
    device = next(network.parameters()).device
    return fold(spec, made.to(device).train(network.training))[1]
