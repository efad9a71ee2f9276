"""Grow dendrites in compressed MONAI networks, and ship them as plain ones."""

__version__ = "0.1.0"

from .case_table import CaseTable
from .cli_config import guard_command_line
from .config import DendriteConfig
from .data import CaseDataset, EpochSampler
from .errors import UserError
from .layer import DendriticLayer
from .network import build_network, load_weights

__all__ = [
    "CaseDataset",
    "CaseTable",
    "DendriteConfig",
    "DendriteHandler",
    "DendriticLayer",
    "EpochSampler",
    "RunHandler",
    "UserError",
    "build_network",
    "datalist",
    "find_volumes",
    "guard_command_line",
    "load_weights",
]


def __getattr__(name: str) -> object:
    """Training parts load when first asked for: exported bundles run without them."""
    if name == "DendriteHandler":
        from .handler import DendriteHandler

        return DendriteHandler
    if name == "RunHandler":
        from .run import RunHandler

        return RunHandler
    if name in ("datalist", "find_volumes"):
        from . import datasets

        return getattr(datasets, name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
