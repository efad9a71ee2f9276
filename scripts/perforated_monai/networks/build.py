"""Network spec -> ``torch.nn.Module``: the base network with its dendritic layers in place."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import monai.networks.nets
from monai.networks.blocks import Convolution
from torch import nn

from ..dendrites.convolutions import FUSIBLE
from ..dendrites.kinds import ENTRY, kind_of_entry
from ..dendrites.kinds.sited import SitedKind
from ..errors import UserError
from . import catalogue as nets
from .delta import apply_delta
from .spec import expect_spec
from .surgery import add_dendrites, image_last, place_dendrites


def build_network(
    spec: Mapping[str, Any],
    base_weights: str | Path | None = None,
    delta: str | Path | None = None,
) -> nn.Module:
    """Rebuild a network from its spec (DESIGN: ``{"format": 1, "base": …, "dendrites": …}``).

    ``base`` holds ``name``, the class name of a MONAI network or of ``perforated_monai.nets``, and
    its constructor arguments; ``dendrites`` maps layer names of the base network to ``count``,
    ``kind`` (``dendrites.kinds.KINDS``) with its settings and ``activation``. ``"dendrites": {}``
    is the plain network. The weights are freshly initialised: load a state dict with
    ``strict=True``.

    With ``base_weights`` and ``delta`` the network comes with its weights: dendrites that were
    trained beside someone else's network (``freeze_base``) on top of that network's own file. The
    spec is then the ``network.json`` that was exported with the delta, which knows both hashes.

    Args:
        spec: see above.
        base_weights: state dict of the base network.
        delta: ``dendrites.pt``.

    Raises:
        UserError: for an unknown format, network, argument or layer name; for weights or a delta
            of another network than the spec's hashes say.
    """
    expect_spec(spec)
    network = _base(dict(spec["base"]))
    if base_weights is not None or delta is not None:
        return apply_delta(network, spec, base_weights, delta)
    for name, dendrites in image_last(spec.get("dendrites", {})):
        network = place_dendrites(network, name, _dendritic(network, name, dendrites))
    return network


def base_spec(definition: Mapping[str, Any]) -> dict[str, Any]:
    """A MONAI component (``_target_`` and arguments) -> the ``base`` entry of a spec."""
    target = str(definition["_target_"])
    name = target.rsplit(".", 1)[-1]
    _network_class(name)
    arguments = {k: v for k, v in definition.items() if not k.startswith("_")}
    return {"name": name, **arguments}


def _base(entry: dict[str, Any]) -> nn.Module:
    name = str(entry.pop("name", None))
    network_class = _network_class(name)
    try:
        inspect.signature(network_class).bind(**entry)
    except TypeError as error:
        msg = f"Network spec, base: {name} {error}."
        raise UserError(msg) from None
    return network_class(**entry)


def _network_class(name: str) -> type[nn.Module]:
    network_class = getattr(nets if name in nets.__all__ else monai.networks.nets, name, None)
    if not (inspect.isclass(network_class) and issubclass(network_class, nn.Module)):
        msg = (
            f"base.name must be a class of monai.networks.nets or one of {', '.join(nets.__all__)}"
            f"; got {name!r}."
        )
        raise UserError(msg)
    return network_class


_ENTRY = ("count", "kind", *ENTRY, "activation")


def _dendritic(network: nn.Module, name: str, entry: Mapping[str, Any]) -> nn.Module:
    try:
        layer = network.get_submodule(name)
    except AttributeError:
        msg = f"Network spec names layer {name!r}, which {type(network).__name__} does not have."
        raise UserError(msg) from None
    unknown = [key for key in entry if key not in _ENTRY]
    if unknown:
        msg = f"Layer {name!r}: {unknown[0]!r} is none of {', '.join(_ENTRY)}. Correct the spec."
        raise UserError(msg)
    try:
        kind = kind_of_entry(entry)
        if not isinstance(kind, SitedKind) and not isinstance(layer, (*FUSIBLE, Convolution)):
            msg = f"Layer {name!r}: a {type(layer).__name__} takes no dendrites here."
            raise UserError(msg)
        return add_dendrites(layer, entry.get("count", 0), entry.get("activation", ""), kind)
    except (TypeError, ValueError) as error:
        msg = f"Network spec, layer {name!r}: {error}"
        raise UserError(msg) from None
