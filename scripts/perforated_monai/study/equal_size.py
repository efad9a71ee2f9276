"""Channels of a plain network with as many parameters, or FLOPs, as another network has."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import nn

from ..bundle.configs import load_configs
from ..errors import UserError
from ..networks.build import base_spec, build_network
from ..networks.cost import count_flops
from ..networks.definition import network_definition
from ..networks.surgery import count_parameters

TOLERANCE = 0.02


def wider_channels(
    definition: dict[str, Any], target: int, cost: str, patch: list[int]
) -> list[int]:
    """Channels that bring the cost of a network to ``target`` or, by whole numbers, just above.

    All levels are scaled alike first; then single levels move by up to two channels, so lists may
    be uneven.

    Args:
        definition: MONAI component of the plain network, with ``channels``.
        target: parameters, or floating-point operations of one patch.
        cost: ``parameters`` or ``flops``.
        patch: voxels of the patch.

    Raises:
        UserError: for a network without ``channels``, or where nothing comes within 2 %.
    """
    base = base_spec(definition)
    if not isinstance(base.get("channels"), list):
        msg = (
            f"Arms wide and wide_flops change base_network_def::channels, which {base['name']} "
            "does not have: leave them out of the study."
        )
        raise UserError(msg)

    def measure(channels: list[int]) -> int:
        with torch.device("meta"):
            network = build_network({"format": 1, "base": base | {"channels": channels}})
            if cost == "parameters":
                return count_parameters(network)
            return _flops(network, base, patch)

    best = _search(base["channels"], target, measure)
    off = _excess(measure(best), target) / target
    if off > TOLERANCE:
        msg = f"No channels bring {base['name']} within 2 % of {target:,} {cost} ({off:.1%} off)."
        raise UserError(msg)
    return best


def deeper_network(definition: dict[str, Any], target: int) -> dict[str, Any]:
    """Channels and strides of a network with one more level, of as many parameters as ``target``.

    The new level repeats the last one at its resolution (stride 1), so that patches keep fitting.

    Args:
        definition: MONAI component of the plain network, with ``channels`` and ``strides``.
        target: parameters.

    Raises:
        UserError: as ``wider_channels``, or for a network without ``strides``.
    """
    base = base_spec(definition)
    channels, strides = base.get("channels"), base.get("strides")
    if not isinstance(channels, list) or not isinstance(strides, list):
        msg = f"Arm deeper adds a level, and {base['name']} has no channels and strides."
        raise UserError(msg)
    longer = {"channels": [*channels, channels[-1]], "strides": [*strides, 1]}
    fitted = wider_channels({**definition, **longer}, target, "parameters", [])
    return {"channels": fitted, "strides": longer["strides"]}


def resolved_definition(files: list[str], settings: dict[str, Any]) -> dict[str, Any]:
    """``base_network_def`` of merged configuration files, references resolved."""
    parser = ConfigParser(load_configs(files))
    parser.update(settings)
    return network_definition(parser.get(), "base_network_def")


def _search(channels: list[int], target: int, measure: Callable[[list[int]], int]) -> list[int]:
    def scaled(factor: float) -> list[int]:
        return [max(1, round(c * factor)) for c in channels]

    low, high = 0.25, 1.0
    while measure(scaled(high)) < target and high < 64:
        high *= 2
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if measure(scaled(middle)) < target else (low, middle)
    near = scaled(high)
    best, best_off = near, _excess(measure(near), target)
    steps = sorted(itertools.product((0, -1, 1, -2, 2), repeat=len(near)), key=_effort)
    for step in steps:
        if best_off <= 0.01 * target:
            break
        tried = [max(1, c + d) for c, d in zip(near, step, strict=True)]
        off = _excess(measure(tried), target)
        if off < best_off:
            best, best_off = tried, off
    return best


def _excess(cost: int, target: int) -> float:
    """How far above the target; a control must not be smaller than what it is held against."""
    return cost - target if cost >= target else float("inf")


def _effort(step: tuple[int, ...]) -> int:
    return sum(abs(d) for d in step)


def _flops(network: nn.Module, base: dict[str, Any], patch: list[int]) -> int:
    x = torch.empty(2, int(base["in_channels"]), *patch, device="meta")
    return count_flops(network.eval(), x)
