"""Network spec -> ``torch.nn.Module``: the base network with its dendritic layers in place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.networks.blocks import Convolution
from torch import nn

from ..dendrites.convolutions import FUSIBLE
from ..dendrites.kinds import ENTRY, kind_of_entry
from ..dendrites.kinds.sited import SitedKind
from ..errors import UserError
from .delta import apply_delta
from .makers import make, maker_of, name_in_spec
from .searched import SEARCHED
from .spec import expect_spec
from .surgery import add_dendrites, image_last, place_dendrites


def build_network(
    spec: Mapping[str, Any],
    base_weights: str | Path | None = None,
    delta: str | Path | None = None,
) -> nn.Module:
    """Rebuild a network from its spec (DESIGN: ``{"format": 1, "base": …, "dendrites": …}``).

    ``base`` holds ``name`` (what ``networks.makers`` takes: a class or factory function of MONAI's
    networks, a class of ``perforated_monai.nets`` or of a bundle's own ``scripts``) and its
    arguments; ``dendrites`` maps layer names of the base network to ``count``,
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
    base = dict(spec["base"])
    network = make(str(base.pop("name", None)), base)
    if base_weights is not None or delta is not None:
        return apply_delta(network, spec, base_weights, delta)
    for name, dendrites in image_last(spec.get("dendrites", {})):
        network = place_dendrites(network, name, _dendritic(network, name, dendrites))
    return network


def base_spec(definition: Mapping[str, Any]) -> dict[str, Any]:
    """A MONAI component (``_target_`` and arguments) -> the ``base`` entry of a spec."""
    name = name_in_spec(str(definition["_target_"]))
    arguments = {k: v for k, v in definition.items() if not k.startswith("_")}
    if name == "DiNTS":
        name = SEARCHED  # its search space is an object, which a spec holds as plain values
    maker_of(name)
    return {"name": name, **arguments}


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
