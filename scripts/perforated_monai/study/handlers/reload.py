"""The best network of a finished run as a plain one, for a test that was interrupted."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

from torch import nn

from ...dendrites.config import DendriteConfig
from ...errors import UserError
from ...growth.to_plain import make_plain
from ...training.records import Best, GrowthRecord
from ...training.run_folder import RunFolder
from . import branch


def best_network(network: nn.Module, run: str | Path) -> nn.Module:
    """Load ``checkpoints/best.pt`` of any arm into its base network; changed and returned.

    Args:
        network: the plain network that training started from.
        run: run folder.
    """
    best = RunFolder(run).checkpoints.load_best()
    if best is None:
        msg = f"{run} never reached a validation: it has no checkpoints/best.pt. Train longer."
        raise UserError(msg)
    growth = best["growth"]
    if growth is None:
        network.load_state_dict(best["network"], strict=True)
    elif growth.get("kind") == branch.KIND:
        plain = {name: copy.deepcopy(network.get_submodule(name)) for name in growth["layers"]}
        kind = DendriteConfig.from_dict(growth["config"]).dendrite
        branch.load_branches(network, plain, best["network"], kind)
    else:
        _load_grown(network, best, growth)
    return network


def _load_grown(network: nn.Module, best: Best, growth: GrowthRecord) -> None:
    from ...growth.tracker import Tracker

    config = DendriteConfig.from_dict(growth["config"])
    with tempfile.TemporaryDirectory() as folder:
        tracker = Tracker(network, config, folder, layers=growth["layers"])
        tracker.open()
        try:
            tracker.load_network(best["network"])
            make_plain(network, config.activation)
        finally:
            tracker.close()
