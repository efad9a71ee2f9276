"""DiNTS with its searched architecture as plain values.

MONAI makes it from an object, the search space, which holds arrays of a search. A spec, being JSON,
holds lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.networks.nets import DiNTS, TopologyInstance

SEARCHED = "SearchedDiNTS"
SPACE = "TopologyInstance"


class SearchedDiNTS(DiNTS):
    """A DiNTS of one architecture; its parameters have the names that MONAI's has.

    Args:
        dints_space: arguments of ``TopologyInstance``; ``arch_code`` as two lists of rows, the
            connections in use and the operation of each.
        node_a: which nodes are in use, as rows; all when not given.
        settings: the other arguments of ``DiNTS``.
    """

    def __init__(
        self,
        dints_space: Mapping[str, Any],
        node_a: Sequence[Sequence[float]] | None = None,
        **settings: Any,
    ) -> None:
        space = dict(dints_space)
        if space.get("arch_code") is not None:
            space["arch_code"] = [np.asarray(code) for code in space["arch_code"]]
        nodes = None if node_a is None else torch.as_tensor(node_a)
        super().__init__(TopologyInstance(**space), node_a=nodes, **settings)


def plain_space(space: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a ``TopologyInstance`` component as plain values; where it runs is left out."""
    arguments = {k: v for k, v in space.items() if not k.startswith("_") and k != "device"}
    if arguments.get("arch_code") is not None:
        arguments["arch_code"] = [rows(code) for code in arguments["arch_code"]]
    return arguments


def rows(array: Any) -> Any:
    """An array or tensor as lists; anything else as it is."""
    return array.tolist() if isinstance(array, (np.ndarray, torch.Tensor)) else array
