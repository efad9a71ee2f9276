"""Which kinds of dendrites suit a network, by the shapes in it, when nobody names any."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import UserError
from .config import DendriteConfig
from .kinds.apical import Apical
from .kinds.distal import Distal
from .targets import find_targets
from .trace import Trace


def default_sets(network: nn.Module, seen: Trace) -> tuple[list[dict[str, Any]], list[str]]:
    """The parts of one set for a network, and a sentence for each kind that is left out.

    ``distal`` goes wherever a block of a known class is. ``apical`` is for networks whose first
    convolution strides: where the output layer reads a map of the image's own resolution, nothing
    of it was thrown away (``bundles/README.md``, "Where dendrites pay").

    Args:
        network: plain, as growth meets it.
        seen: the shapes in it.

    Returns:
        parts for ``DendriteConfig.sets``, empty where neither kind has a place.
    """
    parts: list[dict[str, Any]] = []
    notes: list[str] = []
    try:
        Distal().places(network, seen, ["*"], [])
        parts.append({"kind": Distal.name})
    except UserError as error:
        notes.append(f"Left out: {error}")
    try:
        places = Apical().places(network, seen, ["*"], [])
        name, apical = next(iter(places.items()))
        if max(apical.scale) == 1:
            notes.append(
                f"Left out: kind apical, since {name} reads a map of the image's own resolution: "
                "the network threw no detail away."
            )
        else:
            parts.append({"kind": Apical.name})
    except UserError as error:
        notes.append(f"Left out: {error}")
    if len(parts) > 1:
        try:
            find_targets(network, DendriteConfig(sets=parts, activation="kind"), seen)
        except UserError as error:
            notes.append(f"Left out: kind apical. {error}")
            parts = parts[:1]
    return parts, notes
