"""What will grow where in a bundle's network, and what it costs, before anything runs."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ...dendrites.config import DendriteConfig
from ...dendrites.default_sets import default_sets
from ...dendrites.trace import Trace, trace
from ...errors import UserError
from ...networks.build import build_network
from ...networks.cost import count_flops
from ...networks.grown_spec import grown_entries
from ...networks.spec import plain_spec
from ...networks.surgery import count_parameters


@dataclass(frozen=True)
class Plan:
    """What the overlay says about the dendrites.

    Attributes:
        sets: parts of one set, where kinds are mixed; else
        kind: the one kind.
        cost: what one set adds, as the end of a sentence.
        notes: sentences for the head of the overlay.
    """

    sets: list[dict[str, Any]] = field(default_factory=list)
    kind: str | None = "copy"
    cost: str = "what its layers cost"
    notes: list[str] = field(default_factory=list)


def plan_growth(
    base: dict[str, Any] | None, kind: str, layers: Sequence[str], layer_types: Sequence[str]
) -> Plan:
    """Choose the kinds for a network and count what one set adds.

    Args:
        base: the ``base`` of its spec; None where it takes an expression to build it, which is
            not run here: copies, which fit any layer, are then taken.
        kind: asked for; empty leaves the choice to the network's shape.
        layers: shell patterns over module names.
        layer_types: class names, for kinds that take layers by type.

    Raises:
        UserError: for a kind or a pattern that finds no layer.
    """
    if base is None:
        note = (
            "The network's definition holds an expression, which is not run here, so its shape is "
            "unknown: copies grow. Where blocks and strides suit, sets of distal and apical "
            "dendrites give more."
        )
        return Plan(kind=kind or "copy", notes=[] if kind else [note])
    network = build_network(plain_spec(base))
    seen, notes = _shapes(network)
    sets: list[dict[str, Any]] = []
    if kind:
        notes = []
    elif seen is not None:
        sets, notes = default_sets(network, seen)
    one = None if sets else kind or "copy"
    config = DendriteConfig(
        kind=one,
        sets=sets,
        activation="kind",
        layer_types=list(layer_types),
        layer_names=list(layers),
    )
    entries = grown_entries(network, config, seen=seen)
    cost = _cost(base, network, entries, seen)
    return Plan(sets, one, cost, [_where(entries), *notes])


def _where(entries: dict[str, Any]) -> str:
    """Which layers get dendrites of which kind."""
    parts = []
    for kind, count in Counter(e.get("kind", "copy") for e in entries.values()).items():
        names = [n for n, e in entries.items() if e.get("kind", "copy") == kind]
        shown = ", ".join(names[:6]) + (f" and {count - 6} more" if count > 6 else "")
        parts.append(f"{kind} at {shown}")
    return f"Will grow: {'; '.join(parts)}."


def _shapes(network: nn.Module) -> tuple[Trace | None, list[str]]:
    """The shapes in a network, or why they cannot be learned."""
    try:
        return trace(network), []
    except UserError as error:
        return None, [str(error)]


def _cost(
    base: dict[str, Any], network: nn.Module, entries: dict[str, Any], seen: Trace | None
) -> str:
    """Parameters, and operations where the network runs on a volume of zeros."""
    grown = build_network({**plain_spec(base), "dendrites": entries})
    more = 100 * (count_parameters(grown) / count_parameters(network) - 1)
    text = f"{more:.{1 if more < 10 else 0}f} % parameters"
    if seen is not None:
        x = torch.zeros(2, *seen.image[1:])
        # Not every network takes two samples of the size that it takes one of, or has operations
        # that are counted.
        with contextlib.suppress(RuntimeError, ValueError, ZeroDivisionError):
            flops = count_flops(grown.eval(), x) / count_flops(network.eval(), x) - 1
            text += f" and {100 * flops:.0f} % operations"
    layers = "layer" if len(entries) == 1 else "layers"
    return f"about {text}, in {len(entries)} {layers}"
