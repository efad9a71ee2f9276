"""The definition of a run's network: named in its configuration, rebuilt before it trains."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..errors import UserError
from ..networks.build import base_spec, build_network
from ..networks.definition import definition_key, network_definition
from ..networks.spec import plain_spec


def refuse_another_definition(config: dict[str, Any], network: nn.Module) -> None:
    """Refuse, before a training, a network that could not be rebuilt from its configuration.

    Args:
        config: the merged configuration.
        network: what it made, before any layer is wrapped.

    Raises:
        UserError: for a definition with objects in it, or one that gives other tensors.
    """
    definition = definition_key(config)
    base = base_spec(network_definition(config, definition))
    with torch.random.fork_rng(devices=[]):
        rebuilt = build_network(plain_spec(base))
    want = {name: tensor.shape for name, tensor in network.state_dict().items()}
    made = {name: tensor.shape for name, tensor in rebuilt.state_dict().items()}
    other = sorted(n for n in want.keys() | made.keys() if want.get(n) != made.get(n))
    if other:
        msg = (
            f"{definition} does not make the network that trains ({len(other)} tensors differ: "
            f"{', '.join(other[:3])}): export could not rebuild it. Name its definition in "
            "perforated_overlay::network_def."
        )
        raise UserError(msg)
