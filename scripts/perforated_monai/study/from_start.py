"""A network that has its dendrites from the first epoch on."""

from __future__ import annotations

from typing import Any

from ..dendrites.config import DendriteConfig
from ..networks.build import base_spec, build_network
from ..networks.grown_spec import grown_entries
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
    spec = plain_spec(base_spec(definition))
    dendrites = grown_entries(build_network(spec), DendriteConfig.from_dict(growth), count)
    return {
        "_target_": "perforated_monai.build_network",
        "spec": {**spec, "dendrites": dendrites},
    }
