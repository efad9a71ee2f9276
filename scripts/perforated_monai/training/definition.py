"""The definition of a run's network: named in its configuration, rebuilt before it trains."""

from __future__ import annotations

import json
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import nn

from ..errors import UserError
from ..networks.build import base_spec, build_network
from ..networks.spec import plain_spec


def refuse_another_definition(config: dict[str, Any], network: nn.Module) -> None:
    """Refuse, before a training, a network that could not be rebuilt from its configuration.

    Args:
        config: the merged configuration.
        network: what it made, before any layer is wrapped.

    Raises:
        UserError: for a definition with objects in it, or one that gives other tensors.
    """
    definition = str(config.get("perforated_overlay", {}).get("network_def", "network_def"))
    base = base_spec(_definition(config, definition))
    with torch.random.fork_rng(devices=[]):
        rebuilt = build_network(plain_spec(base))
    want = {name: tensor.shape for name, tensor in network.state_dict().items()}
    found = {name: tensor.shape for name, tensor in rebuilt.state_dict().items()}
    other = sorted(n for n in want.keys() | found.keys() if want.get(n) != found.get(n))
    if other:
        msg = (
            f"{definition} does not make the network that trains ({len(other)} tensors differ: "
            f"{', '.join(other[:3])}): export could not rebuild it. Name its definition in "
            "perforated_overlay::network_def."
        )
        raise UserError(msg)


def _definition(config: dict[str, Any], key: str) -> dict[str, Any]:
    key = "base_network_def" if "base_network_def" in config else key
    # instantiate=False gives MONAI's own item, with references inside it resolved.
    item = ConfigParser(config).get_parsed_content(key, instantiate=False)
    definition = item.get_config() if hasattr(item, "get_config") else item
    if not isinstance(definition, dict) or "_target_" not in definition:
        msg = f"config.json of the run holds no {key} with a _target_: cannot name the network."
        raise UserError(msg)
    plain = {k: v for k, v in definition.items() if k not in ("_desc_", "_mode_", "_requires_")}
    try:
        json.dumps(plain)
    except TypeError as error:
        msg = f"{key} must be made from plain values to be written into a bundle: {error}."
        raise UserError(msg) from None
    return plain
