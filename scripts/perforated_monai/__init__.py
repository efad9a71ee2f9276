"""Grow dendrites in compressed MONAI networks, and ship them as plain ones.

Names load when first asked for: exported bundles run without the training parts, and commands that
need no network start without torch.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .case_table import CaseTable
    from .cli_config import guard_command_line
    from .config import DendriteConfig
    from .data import CaseDataset, EpochSampler
    from .datasets import datalist, find_volumes
    from .errors import UserError
    from .handler import DendriteHandler
    from .layer import DendriticLayer
    from .network import build_network, load_weights
    from .overlay.watch import bundle_unchanged, watch_bundle
    from .regions import LabelRegionsd
    from .run import RunHandler
    from .sparsity import SparsityHandler
    from .trt import trt_network

__all__ = [
    "CaseDataset",
    "CaseTable",
    "DendriteConfig",
    "DendriteHandler",
    "DendriticLayer",
    "EpochSampler",
    "LabelRegionsd",
    "RunHandler",
    "SparsityHandler",
    "UserError",
    "build_network",
    "bundle_unchanged",
    "datalist",
    "find_volumes",
    "guard_command_line",
    "load_weights",
    "trt_network",
    "watch_bundle",
]

_MODULES = {
    "CaseDataset": "data",
    "CaseTable": "case_table",
    "DendriteConfig": "config",
    "DendriteHandler": "handler",
    "DendriticLayer": "layer",
    "EpochSampler": "data",
    "LabelRegionsd": "regions",
    "RunHandler": "run",
    "SparsityHandler": "sparsity",
    "UserError": "errors",
    "build_network": "network",
    "bundle_unchanged": "overlay.watch",
    "datalist": "datasets",
    "find_volumes": "datasets",
    "guard_command_line": "cli_config",
    "load_weights": "network",
    "trt_network": "trt",
    "watch_bundle": "overlay.watch",
}


def __getattr__(name: str) -> object:
    """Import the module of a public name."""
    if name in _MODULES:
        return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
