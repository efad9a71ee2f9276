"""The spec of a network with the dendrites that growth would add to it."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..dendrites.config import DendriteConfig
from ..dendrites.kinds.sited import SitedKind
from ..dendrites.targets import find_targets
from ..dendrites.trace import Trace


def grown_entries(
    network: nn.Module, config: DendriteConfig, count: int = 1, seen: Trace | None = None
) -> dict[str, Any]:
    """The ``dendrites`` of a spec: layer -> entry, in the network's order.

    Args:
        network: the plain network.
        config: layers, kinds and activation count.
        count: dendrites of each layer.
        seen: as ``find_targets``.

    Raises:
        UserError: as ``find_targets``.
    """
    dendrites: dict[str, Any] = {}
    for name, kind in find_targets(network, config, seen).items():
        settled = kind if isinstance(kind, SitedKind) else kind.fits(network.get_submodule(name))
        dendrites[name] = {"count": count, **settled.entry(), "activation": config.activation}
    return dendrites
