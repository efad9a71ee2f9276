"""Channels of a plain network that takes at least the CPU time of another one."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from ..errors import UserError
from ..networks.build import base_spec, build_network
from ..networks.cost import time_patches

# Steps of a width, as the factor on every level of the base network.
_STEP = 1.06
_MOST = 64


def slower_channels(
    definition: dict[str, Any], dendritic: nn.Module, patch: list[int], rounds: int = 7
) -> list[int]:
    """The narrowest channels with which a plain network takes the CPU time of a dendritic one.

    Both run in turn on one thread, batch 2 and without gradients, so that what else the machine
    does meets both; the medians are compared. Times differ between machines, and so may the
    answer: a study asks once, and its later trials take the same channels.

    Args:
        definition: MONAI component of the plain network, with ``channels``.
        dendritic: the network to match, as it is exported.
        patch: voxels of a patch.
        rounds: runs of each.

    Raises:
        UserError: for a network without ``channels``.
    """
    base = base_spec(definition)
    if not isinstance(base.get("channels"), list):
        msg = f"Arm wide_time changes channels, which {base['name']} does not have: leave it out."
        raise UserError(msg)
    x = torch.randn(2, int(base["in_channels"]), *patch)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        tried: list[list[int]] = []
        for power in range(_MOST):
            channels = [max(1, round(c * _STEP**power)) for c in base["channels"]]
            if channels in tried:
                continue
            tried.append(channels)
            plain = build_network({"format": 1, "base": base | {"channels": channels}})
            pair = {"dendritic": dendritic.eval(), "plain": plain.eval()}
            with torch.no_grad():
                times = time_patches(pair, x, rounds, time.process_time)
            if times["plain"]["median"] >= times["dendritic"]["median"]:
                return channels
    finally:
        torch.set_num_threads(threads)
    msg = f"No width of {base['name']} up to {tried[-1]} is as slow as the dendritic network."
    raise UserError(msg)
