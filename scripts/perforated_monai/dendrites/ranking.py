"""Which layers grow under ``layers: auto`` or ``random``: what each costs, and which fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from ..errors import UserError
from .config import DendriteConfig
from .kinds import SETTINGS

FORMAT = 1


def costs_of(network: nn.Module, names: list[str], config: DendriteConfig) -> dict[str, int]:
    """Parameters that the first dendrite of each layer adds, checked against what is asked for.

    Args:
        network: before any layer is wrapped.
        names: layers that patterns and kind leave, in the network's own order.
        config: its kind, ``auto_layers`` and ``parameter_budget`` count.

    Raises:
        UserError: for a budget below the cheapest layer's dendrite, or more layers than there are.
    """
    kind = config.dendrite
    try:
        costs = {name: kind.cost(network.get_submodule(name)) for name in names}
    except AttributeError:
        msg = (
            f"layers: {config.layers} ranks convolutions, Linear and MONAI's Convolution blocks; "
            f"layer_types {config.layer_types} holds others. Take layers: all."
        )
        raise UserError(msg) from None
    cheapest = min(costs, key=costs.__getitem__)
    if config.parameter_budget and costs[cheapest] > config.parameter_budget:
        msg = (
            f"parameter_budget {config.parameter_budget} is less than the smallest set costs, "
            f"{costs[cheapest]} parameters on layer {cheapest!r} (kind {config.kind}): raise it, "
            "or take a cheaper kind."
        )
        raise UserError(msg)
    if config.auto_layers > len(names):
        msg = (
            f"auto_layers must be at most {len(names)}, the layers that can grow here; got "
            f"{config.auto_layers}. Give less, or layers: all."
        )
        raise UserError(msg)
    return costs


def choose_layers(
    costs: Mapping[str, int],
    gains: Mapping[str, float] | None,
    config: DendriteConfig,
    seed: int,
) -> dict[str, Any]:
    """Rank the layers, and take the best ``auto_layers``, or all that fit ``parameter_budget``.

    A layer that does not fit what is left of the budget is passed over for the next ones.

    Args:
        costs: of ``costs_of``.
        gains: expected fall of the loss of each layer; None ranks at random, by ``seed``.
        config: settings of growth.
        seed: of the run.

    Returns:
        what ``layers.json`` holds: settings, and layers in the order of their rank, each with
        ``grows``.
    """
    names = list(costs)
    worth = {n: _finite(gains[n]) / costs[n] for n in names} if gains is not None else None
    if worth is None:
        order = [
            names[i] for i in np.random.default_rng([seed, len(names)]).permutation(len(names))
        ]
    else:
        order = sorted(names, key=lambda n: -worth[n])
    taken: list[str] = []
    for name in order:
        used = sum(costs[n] for n in taken)
        fits = used + costs[name] <= config.parameter_budget
        if fits if config.parameter_budget else len(taken) < config.auto_layers:
            taken.append(name)
    entries = [
        {
            "name": name,
            "parameters": costs[name],
            "gain": None if gains is None else gains[name],
            "gain_per_parameter": None if worth is None else worth[name],
            "grows": name in taken,
        }
        for name in order
    ]
    asked = ("auto_layers", "parameter_budget", "kind", *SETTINGS, "activation")
    return {
        "format": FORMAT,
        "ranking": "random" if gains is None else "gradient",
        "seed": seed,
        **{key: getattr(config, key) for key in asked},
        "added_parameters": sum(costs[n] for n in taken),
        "layers": entries,
    }


def growing(record: Mapping[str, Any], names: list[str]) -> list[str]:
    """Layers that grow by a record of ``choose_layers``, in the order of ``names``."""
    chosen = {entry["name"] for entry in record["layers"] if entry["grows"]}
    return [name for name in names if name in chosen]


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0
