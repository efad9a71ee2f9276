"""The sites of a network that is about to grow, and the names of what the tracker wraps."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from ..dendrites.kind import Kind
from ..dendrites.kinds.sited import SitedKind
from ..dendrites.sites import make_site
from ..dendrites.wrapped import wrapped_name
from ..networks.surgery import replace_module


def make_sites(network: nn.Module, layers: list[str], kinds: Mapping[str, Kind]) -> list[str]:
    """Put a site at each layer whose kind needs one, in place.

    Args:
        network: before any layer is wrapped.
        layers: those that grow.
        kinds: layer -> kind, of ``find_targets``.

    Returns:
        what the library is to wrap, in the order of ``layers``.
    """
    names = []
    for name in layers:
        kind = kinds.get(name)
        sited = isinstance(kind, SitedKind)
        if sited:
            replace_module(network, name, make_site(network, name, kind))
        names.append(wrapped_name(name, sited))
    return names
