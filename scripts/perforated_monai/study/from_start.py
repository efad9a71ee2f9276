"""A network that has its dendrites from the first epoch on."""

from __future__ import annotations

from typing import Any

from ..dendrites.config import DendriteConfig
from ..dendrites.kinds.sited import SitedKind
from ..dendrites.targets import find_targets
from ..networks.build import base_spec, build_network
from ..networks.spec import plain_spec


def with_dendrites(
    definition: dict[str, Any], growth: dict[str, Any], count: int
) -> dict[str, Any]:
    """The MONAI component of a network with the dendrites that growth would add.

    Args:
        definition: MONAI component of the plain network.
        growth: settings of ``DendriteConfig``; layers, kinds and activation count.
        count: dendrites of each layer.
    """
    config = DendriteConfig.from_dict(growth)
    spec = plain_spec(base_spec(definition))
    network = build_network(spec)
    dendrites: dict[str, Any] = {}
    for name, kind in find_targets(network, config).items():
        settled = kind if isinstance(kind, SitedKind) else kind.fits(network.get_submodule(name))
        dendrites[name] = {"count": count, **settled.entry(), "activation": config.activation}
    return {
        "_target_": "perforated_monai.build_network",
        "spec": {**spec, "dendrites": dendrites},
    }
